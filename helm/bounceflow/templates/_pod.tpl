{{/* What is the same in every container: image, environment, files, and no privileges at all. */}}
{{- define "bounceflow.container" -}}
image: {{ include "bounceflow.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - {name: BOUNCEFLOW_CONFIG, value: /etc/bounceflow/bounceflow.toml}
  - {name: RUST_LOG, value: {{ .Values.log | quote }}}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumeMounts:
  - {name: files, mountPath: /etc/bounceflow, readOnly: true}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* Every mistake of the configuration at once, before anything else is done with it. */}}
{{- define "bounceflow.checkConfig" -}}
name: check-config
args: [check-config]
resources:
  {{- toYaml .Values.jobs.resources | nindent 2 }}
{{ include "bounceflow.container" . }}
{{- end -}}

{{/*
The part of a pod that does not depend on what runs in it. Wants root, prefix (of the ConfigMaps), pod (values), component,
serviceAccount.
*/}}
{{- define "bounceflow.podCommon" -}}
{{- $values := .root.Values -}}
serviceAccountName: {{ .serviceAccount }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- if not (kindIs "invalid" $values.pod.user) }}
  runAsUser: {{ int64 $values.pod.user }}
  runAsGroup: {{ int64 $values.pod.user }}
  fsGroup: {{ int64 $values.pod.user }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .pod.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
volumes:
  - {{ include "bounceflow.volume" . | nindent 4 | trim }}
{{- end -}}
