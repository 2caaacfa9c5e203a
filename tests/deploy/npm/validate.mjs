// Checks custom resources (a JSON array on standard input) against the schemas of their operators' own types, and prints a
// JSON array of problems. The schemas are compiled functions, which say nothing of unknown fields; but a field that such a
// function never reads is none that it knows. Run it where the packages are installed.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const SCHEMAS = {
  "keda.sh/v1alpha1": ["keda", "ComGithubKedacoreKedaV2ApisKedaV1alpha1"],
  "external-secrets.io/v1": ["external-secrets", "ComGithubExternalSecretsExternalSecretsApisExternalsecretsV1"],
  "gateway.networking.k8s.io/v1": ["gateway-api", "IoK8sSigsGatewayApiApisV1"],
  "monitoring.coreos.com/v1": [
    "prometheus-operator",
    "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1",
  ],
};

function watched(value, path, objects) {
  if (value === null || typeof value !== "object") return value;
  const read = new Map();
  objects.push({ value, path, read });
  return new Proxy(value, {
    get(target, key) {
      if (typeof key !== "string" || !Object.hasOwn(target, key)) return Reflect.get(target, key);
      if (!read.has(key)) read.set(key, watched(target[key], `${path}/${key}`, objects));
      return read.get(key);
    },
  });
}

async function problems(object) {
  const [folder, prefix] = SCHEMAS[object.apiVersion] ?? [];
  if (folder === undefined) return [`no schema for ${object.apiVersion}`];
  // By its path: the package exports its classes only.
  const file = join("node_modules", "@kubernetes-models", folder, "_schemas", `${prefix}${object.kind}.js`);
  const { validate } = await import(pathToFileURL(file));
  const objects = [];
  validate(watched(object, "", objects));
  const wrong = (validate.errors ?? []).map(
    ({ instancePath, keyword, params }) => `${instancePath}: ${keyword} ${JSON.stringify(params)}`,
  );
  const unknown = objects.flatMap(({ value, path, read }) =>
    Object.keys(value)
      .filter((key) => !read.has(key))
      .map((key) => `${path}/${key}: unknown field`),
  );
  return [...wrong, ...unknown].map((problem) => `${object.kind} ${problem}`);
}

const found = await Promise.all(JSON.parse(readFileSync(0, "utf8")).map(problems));
console.log(JSON.stringify(found.flat()));
