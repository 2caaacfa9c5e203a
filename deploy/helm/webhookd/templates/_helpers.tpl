{{- define "webhookd.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{- /* The deployments, as JSON: each with the defaults, its name and its component. */ -}}
{{- define "webhookd.deployments" -}}
{{- $all := dict -}}
{{- $roles := list -}}
{{- range $component, $own := .Values.deployments -}}
{{- if kindIs "map" $own -}}
{{- $one := mergeOverwrite (deepCopy $.Values.defaults) (deepCopy $own) -}}
{{- $name := ternary "webhookd" (printf "webhookd-%s" $component) (eq $component "daemon") -}}
{{- if and (has "receive" $one.roles) (ne $component "daemon") -}}
{{- fail (printf "deployments.%s.roles: only the deployment `daemon` may have the role receive, since the webhooks' Service leads to it; set other roles" $component) -}}
{{- end -}}
{{- if and (ne $one.autoscaling.kind "none") (gt (int $one.autoscaling.min) (int $one.autoscaling.max)) -}}
{{- fail (printf "deployments.%s.autoscaling: min is above max; raise max" $component) -}}
{{- end -}}
{{- $roles = concat $roles $one.roles -}}
{{- $_ := set $all $component (mergeOverwrite $one (dict "name" $name "component" $component)) -}}
{{- end -}}
{{- end -}}
{{- range $role := list "receive" "relay" "work" "deliver" "sync" -}}
{{- if not (has $role $roles) -}}
{{- fail (printf "deployments: no deployment has the role %s; add it to one of them" $role) -}}
{{- end -}}
{{- end -}}
{{- if lt (float64 $.Values.shutdownGrace) (addf $.Values.handlerTimeout 10) -}}
{{- fail "shutdownGrace is not 10 seconds above handlerTimeout: a scale-in would interrupt handlers; raise shutdownGrace" -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{- /* The text of a setting. Helm reads a number as a float, and would write 1048576 as 1.048576e+06. */ -}}
{{- define "webhookd.value" -}}
{{ ternary (toJson .) (toString .) (kindIs "float64" .) | quote }}
{{- end -}}

{{- /* preStop, the shutdown, 3 seconds until a shutdown that hangs is left, and some to spare. */ -}}
{{- define "webhookd.terminationGrace" -}}
{{ add (int .Values.preStopSeconds) (int (ceil .Values.shutdownGrace)) 10 }}
{{- end -}}

{{- define "webhookd.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "webhookd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end -}}

{{- define "webhookd.pull" -}}
image: {{ include "webhookd.image" . }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end -}}

{{- /* One replica goes at a time, after the one before has drained; replicas come quickly. */ -}}
{{- define "webhookd.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - type: Pods
      value: 2
      periodSeconds: 30
scaleDown:
  stabilizationWindowSeconds: 300
  policies:
    - type: Pods
      value: 1
      # Above terminationGracePeriodSeconds; Kubernetes allows 1800 at most.
      periodSeconds: {{ min 1800 (add (include "webhookd.terminationGrace" . | int) 60) }}
{{- end -}}
