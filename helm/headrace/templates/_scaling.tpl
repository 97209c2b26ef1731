{{/* An HPA over a Deployment: a dict of root, name and of (minReplicas, maxReplicas, targetCPUPercent). */}}
{{- define "headrace.autoscaler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .name }}
  labels:
    {{- include "headrace.labels" .root | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ .name }}}
  minReplicas: {{ .of.minReplicas }}
  maxReplicas: {{ .of.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .of.targetCPUPercent }}}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 600}
{{- end }}

{{/* A budget of one pod: a dict of root, name and selector (labels as YAML). */}}
{{- define "headrace.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels:
    {{- include "headrace.labels" .root | nindent 4 }}
spec:
  maxUnavailable: 1
  {{- if semverCompare ">=1.27.0-0" .root.Capabilities.KubeVersion.Version }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  {{- end }}
  selector:
    matchLabels:
      {{- .selector | nindent 6 }}
{{- end }}
