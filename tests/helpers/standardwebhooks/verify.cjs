// Reads {"secret", "headers", "body"} from standard input, and verifies the request as a receiver in Node does.
// The first argument is the folder of the installed packages.
const { Webhook } = require(process.argv[2] + "/standardwebhooks");
const { secret, headers, body } = JSON.parse(require("fs").readFileSync(0, "utf8"));
new Webhook(secret).verify(body, headers);
