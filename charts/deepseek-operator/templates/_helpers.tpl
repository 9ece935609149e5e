{{/* Names, labels and the rules of the roles: what more than one template needs. */}}

{{- define "deepseek-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "deepseek-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "deepseek-operator.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "deepseek-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "deepseek-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "deepseek-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "deepseek-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "deepseek-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "deepseek-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: set the name of the account, or serviceAccount.create=true" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "deepseek-operator.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* A setting as the text of an environment variable: whole numbers never as 1e+06, which Helm makes of large ones. */}}
{{- define "deepseek-operator.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}
{{- int64 . }}
{{- else }}
{{- . }}
{{- end }}
{{- end }}

{{/* What the operator may do where jobs are. Each rule says what for; there is no more. */}}
{{- define "deepseek-operator.jobRules" -}}
# See every job, and delete those whose lifecycle.ttlSecondsAfterFinished is over. Specs are never written.
- apiGroups: [training.deepseekjob.dev]
  resources: [deepseekjobs]
  verbs: [get, list, watch, delete]
# Write what is true about a job, once a pass.
- apiGroups: [training.deepseekjob.dev]
  resources: [deepseekjobs/status]
  verbs: [patch]
# Make a job the owner that its children are deleted with, where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [training.deepseekjob.dev]
  resources: [deepseekjobs/finalizers]
  verbs: [update]
# Workers: create, replace, and write their membership annotation. No exec, no logs.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
# The headless Service that gives workers their DNS names. Deleted with its job, never by the operator.
- apiGroups: [""]
  resources: [services]
  verbs: [get, create, patch]
# The PodDisruptionBudget of a job with lifecycle.maxUnavailable. Deleted with its job, never by the operator.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch]
# The claim for a job's checkpoints, by its name: whether its workers can share it.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
{{- if .Values.rbac.claims }}
# The claim of a job with checkpoint.volume.template: made, enlarged, and kept or not. Never deleted by the operator.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [create, patch]
{{- end }}
{{- if .Values.rbac.ray }}
# The token of a job's Ray cluster (data.ray): made, and never read again. Deleted with its job, never by the operator.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
# The NetworkPolicy that keeps strangers from its ports. The same.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create]
{{- end }}
{{- if .Values.rbac.kueue }}
# The Workload of a job with scheduling.gang Kueue: ask for quota, notice what comes of it, give the place up.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [get, list, create, delete]
# Give quota back when the pods are gone after an eviction, and when the job has ended.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads/status]
  verbs: [patch]
{{- end }}
{{- if .Values.rbac.volcano }}
# The PodGroup of a job with scheduling.gang Volcano. Deleted with its job, never by the operator.
- apiGroups: [scheduling.volcano.sh]
  resources: [podgroups]
  verbs: [get, create, patch]
{{- end }}
{{- if .Values.rbac.coscheduling }}
# The PodGroup of a job with scheduling.gang Coscheduling. Deleted with its job, never by the operator.
- apiGroups: [scheduling.x-k8s.io]
  resources: [podgroups]
  verbs: [get, create, patch]
{{- end }}
# Tell what happened, and how often.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# The operator's own Lease must come back through its watch: so it notices when the watch has gone deaf.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ .Values.settings.leaseName | quote }}]
  verbs: [list, watch]
{{- end }}

{{/* What the operator may see of the cluster itself; without any of it there is no such role. */}}
{{- define "deepseek-operator.clusterRules" -}}
{{- if .Values.rbac.readNodes }}
# One node by its name: where a gang's workers are (topology), and whether a node is lost whose pod gives no sign of life
# (then it is replaced), or doesn't finish terminating (then it is deleted by force; without this right it stays).
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
{{- end }}
{{- if .Values.rbac.readProfiles }}
# The profile that a job names, when the job starts.
- apiGroups: [training.deepseekjob.dev]
  resources: [deepseekprofiles]
  verbs: [get]
{{- end }}
{{- if .Values.rbac.kueue }}
# What Kueue assigned to a job (labels and taints of nodes), and how urgent a job is.
- apiGroups: [kueue.x-k8s.io]
  resources: [resourceflavors, workloadpriorityclasses]
  verbs: [get]
- apiGroups: [scheduling.k8s.io]
  resources: [priorityclasses]
  verbs: [get]
{{- end }}
{{- end }}
