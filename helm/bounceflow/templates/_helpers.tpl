{{/* Names and labels. */}}
{{- define "bounceflow.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 letters: with a role, "-headless" and an ordinal it stays within the 63 of a label. */}}
{{- define "bounceflow.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "bounceflow.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "bounceflow.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bounceflow.selector" -}}
app.kubernetes.io/name: {{ include "bounceflow.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bounceflow.labels" -}}
{{ include "bounceflow.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: bounceflow
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "bounceflow.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "bounceflow.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "bounceflow.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The workloads of this release: role (also the object's suffix), its values, its arguments. As JSON. */}}
{{- define "bounceflow.workloads" -}}
{{- $workloads := list -}}
{{- if eq .Values.topology "together" -}}
{{- $workloads = append $workloads (dict "role" "together" "values" .Values.together "args" list) -}}
{{- else -}}
{{- range $role := list "classify" "sink" "watch" -}}
{{- $values := get $.Values $role -}}
{{- if $values.enabled -}}
{{- $workloads = append $workloads (dict "role" $role "values" $values "args" (list "--role" $role)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $workloads -}}
{{- end -}}

{{/* The Service that answers /api/v1; empty where no pod plays the watch role. */}}
{{- define "bounceflow.watchService" -}}
{{- if or (eq .Values.topology "together") .Values.watch.enabled -}}
{{ include "bounceflow.fullname" . }}-watch
{{- end -}}
{{- end -}}

{{/* How the HTTP side is spoken to: the scheme, and with TLS the name its certificate holds. */}}
{{- define "bounceflow.scheme" -}}
{{- ternary "https" "http" (not (empty .Values.secrets.http.certificate)) -}}
{{- end -}}

{{- define "bounceflow.serverName" -}}
{{- .Values.http.serverName | default (printf "%s-watch.%s.svc" (include "bounceflow.fullname" .) .Release.Namespace) -}}
{{- end -}}

{{/*
The longest a role's drain takes, in seconds. The sink waits for the inserts under way; everybody's last transaction and its
calls to the broker take at most 10 s each.
*/}}
{{- define "bounceflow.drain" -}}
{{- $insert := div (add (int64 (.root.Values.config.clickhouse.insert_timeout_ms | default 60000)) 999) 1000 -}}
{{- if has .role (list "sink" "together") -}}{{ add $insert 30 }}{{- else -}}30{{- end -}}
{{- end -}}

{{- define "bounceflow.grace" -}}
{{- $drain := include "bounceflow.drain" . | int64 -}}
{{- $grace := .values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $grace -}}
{{- add $drain 10 -}}
{{- else if le (int64 $grace) $drain -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d, but its drain may take %d s" .role (int64 $grace) $drain) -}}
{{- else -}}
{{- int64 $grace -}}
{{- end -}}
{{- end -}}
