{{/* Labels of every object. Names are fixed (`headrace-...`): a namespace belongs to one release. */}}
{{- define "headrace.labels" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Labels that select the pods of one component. */}}
{{- define "headrace.selector" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Labels that select the pods of one slot: a dict of model and colour. */}}
{{- define "headrace.slotSelector" -}}
{{ include "headrace.selector" "slot" }}
headrace/model: {{ .model }}
headrace/colour: {{ .colour }}
{{- end }}

{{- define "headrace.slotName" -}}
headrace-{{ .model }}-{{ .colour }}
{{- end }}

{{- define "headrace.colours" -}}
["blue", "green", "violet"]
{{- end }}

{{/* One image of `images`: its name with digest or tag. */}}
{{- define "headrace.image" -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "headrace.claim" -}}
{{ .Values.state.existingClaim | default "headrace-state" }}
{{- end }}

{{- define "headrace.airflowNamespace" -}}
{{ .Values.airflow.namespace | default .Release.Namespace }}
{{- end }}

{{- define "headrace.mlflowUrl" -}}
{{- if .Values.mlflow.enabled -}}
http://headrace-mlflow.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:5000
{{- else -}}
{{ .Values.mlflow.url }}
{{- end -}}
{{- end }}

{{/* What every pod's spec begins with: a dict of root, account, and token (true: the pod speaks to the Kubernetes API). */}}
{{- define "headrace.podSpec" -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "headrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where the rollout lies: variables of keepers and Airflow, which hands them to the stages that need them, as a map. */}}
{{- define "headrace.rollout" -}}
HEADRACE_STATE: {{ .Values.state.mountPath | quote }}
HEADRACE_ROLLOUT_STATE: configmap://{{ .Release.Namespace }}
HEADRACE_SLOT_HOST: {{ printf "headrace-{model}-{colour}.%s.svc.%s" .Release.Namespace .Values.clusterDomain | quote }}
{{- include "headrace.extra" . }}
{{- end }}

{{/* `extraEnv` as a map. */}}
{{- define "headrace.extra" -}}
{{- range .Values.extraEnv }}
{{ .name }}: {{ .value | quote }}
{{- end }}
{{- end }}

{{/* How the store's service is reached: variables of stages and Airflow, as a map; credentials come from a secret. */}}
{{- define "headrace.service" -}}
{{- with .Values.store.region }}
AWS_DEFAULT_REGION: {{ . | quote }}
{{- end }}
{{- with .Values.store.endpoint }}
AWS_ENDPOINT_URL: {{ . | quote }}
{{- end }}
{{- end }}

{{/* A map of variables, as YAML, as a container's `env`. */}}
{{- define "headrace.env" -}}
{{- range $name, $value := fromYaml . }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* `serving` with a model's own keys over it, as YAML: a dict of root and model. */}}
{{- define "headrace.serving" -}}
{{- mergeOverwrite (deepCopy .root.Values.serving) (deepCopy (get .root.Values.models .model | default dict)) | toYaml }}
{{- end }}

{{/* Whether to render a kind of the Prometheus operator: a dict of root, said (auto, always, never) and kind. */}}
{{- define "headrace.wanted" -}}
{{- if or (eq .said "always") (and (eq .said "auto") (.root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind))) -}}
yes
{{- end -}}
{{- end }}
