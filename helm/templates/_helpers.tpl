{{- define "hearken.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Cut at 40: StatefulSet pods add "-gateway-12" and a hash, and a label holds 63. */}}
{{- define "hearken.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "hearken.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "hearken.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "hearken.selector" -}}
app.kubernetes.io/name: {{ include "hearken.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hearken.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "hearken.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: hearken
{{- end }}

{{/* A digest goes before a tag. */}}
{{- define "hearken.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (.image.tag | default .chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "hearken.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "hearken.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* Mistakes that would only show in a running cluster, told before anything is made. */}}
{{- define "hearken.check" -}}
{{- if not (or .Values.kafka.bootstrapServers .Values.kafka.clientSecret) }}
{{- fail "kafka.bootstrapServers is empty: several machines share no log file, so the chart needs Kafka. Set it to HOST:PORT[,HOST:PORT...], or kafka.clientSecret to a Secret with a file of client settings" }}
{{- end }}
{{- if and .Values.kafka.bootstrapServers .Values.kafka.clientSecret }}
{{- fail "kafka.bootstrapServers and kafka.clientSecret are both set: write bootstrap.servers into the Secret's file alone" }}
{{- end }}
{{- if and (gt (int .Values.controller.replicas) 1) (not .Values.redis.url) (not .Values.redis.existingSecret) }}
{{- fail (printf "controller.replicas is %d without Redis: of several controllers one leads, by a lease that is kept there. Set redis.url or redis.existingSecret, or have one controller" (int .Values.controller.replicas)) }}
{{- end }}
{{- if and .Values.monitoring.engines .Values.networkPolicy.enabled (not .Values.networkPolicy.metricsFrom) }}
{{- fail "monitoring.engines needs networkPolicy.metricsFrom: engines serve metrics on the port that loads adapters, so say which pods are Prometheus, or let nobody in (monitoring.engines=false)" }}
{{- end }}
{{- with .Values.monitoring.serviceMonitor }}
{{- if and .enabled $.Values.access.keysSecret (not .keySecret) }}
{{- fail "access.keysSecret closes /metrics, too: give Prometheus a key that may operate, as monitoring.serviceMonitor.keySecret" }}
{{- end }}
{{- end }}
{{- with .Values.learner.autoscaling }}
{{- if and .enabled (not .prometheus) }}
{{- fail "learner.autoscaling needs learner.autoscaling.prometheus, the address of a Prometheus that scrapes the gateways: they tell how many votes wait for the learner" }}
{{- end }}
{{- if and .prometheus (not .enabled) }}
{{- fail "learner.autoscaling.prometheus is set and learner.autoscaling.enabled is not: nothing would scale" }}
{{- end }}
{{- end }}
{{- if ge (int .Values.learner.rolloutEngine) (int .Values.engine.replicas) }}
{{- fail (printf "learner.rolloutEngine is %d, but engines are numbered from 0 to %d (engine.replicas - 1); -1 means the last one" (int .Values.learner.rolloutEngine) (sub (int .Values.engine.replicas) 1)) }}
{{- end }}
{{- if lt (int .Values.lora.kept) (add (int .Values.lora.perBatch) 5) }}
{{- fail (printf "lora.kept is %d: live, previous, control and canary and a rollout must stay loaded beside what a batch mixes; set at least lora.perBatch + 5 = %d" (int .Values.lora.kept) (add (int .Values.lora.perBatch) 5)) }}
{{- end }}
{{- with .Values.adapters.s3 }}
{{- if and (not .url) (or .endpoint .region .credentialsSecret) }}
{{- fail "adapters.s3.url is empty and other values of adapters.s3 are not: set it to s3://BUCKET/PREFIX" }}
{{- end }}
{{- if and .url $.Values.vault.takeOver }}
{{- fail "vault.takeOver takes keys over from the adapters volume, and with adapters.s3.url there is none: take them over first, then change to the bucket" }}
{{- end }}
{{- if and .url (lt (int .copies) (int $.Values.lora.kept)) }}
{{- fail (printf "adapters.s3.copies is %d: an engine keeps %d adapters (lora.kept) and reads them again; set at least that" (int .copies) (int $.Values.lora.kept)) }}
{{- end }}
{{- end }}
{{- if dig "gateway" "trusted_hosts" "" .Values.config }}
{{- fail "config.gateway.trusted_hosts would be passed over, because the chart adds the Service's own names: set access.trustedHosts" }}
{{- end }}
{{- if and (dig "controller" "webhooks" "" .Values.config) (not .Values.controller.webhookSecret.existingSecret) (not (dig "controller" "webhook_secret_file" "" .Values.config)) }}
{{- fail "config.controller.webhooks needs controller.webhookSecret.existingSecret, a Secret with what they are signed with (docs/releases.md)" }}
{{- end }}
{{- with dig "learner" "rank" 0 .Values.config }}
{{- if and (ne (toString .) "none") (gt (int .) (int $.Values.lora.maxRank)) }}
{{- fail (printf "config.learner.rank is %d, more than engines accept (lora.maxRank is %d)" (int .) (int $.Values.lora.maxRank)) }}
{{- end }}
{{- end }}
{{- if and .Values.gateway.autoscaling.prometheus (not .Values.gateway.autoscaling.enabled) }}
{{- fail "gateway.autoscaling.prometheus is set and gateway.autoscaling.enabled is not: set both, or neither" }}
{{- end }}
{{- if and .Values.gateway.autoscaling.enabled (gt (int .Values.gateway.autoscaling.minReplicas) (int .Values.gateway.autoscaling.maxReplicas)) }}
{{- fail "gateway.autoscaling.minReplicas is above maxReplicas" }}
{{- end }}
{{- end }}

{{/* Every engine has an address of its own: an adapter is loaded on each, not on whichever answers. */}}
{{- define "hearken.engineUrl" -}}
{{- $name := printf "%s-engine" (include "hearken.fullname" .root) }}
{{- printf "http://%s-%d.%s:8000" $name (int .number) $name }}
{{- end }}

{{/* With engine.discover a name whose addresses they are, which may become more and fewer. */}}
{{- define "hearken.engineArgs" -}}
{{- if .Values.engine.discover }}
- --engine
- {{ printf "dns://%s-engines.%s.svc:8000" (include "hearken.fullname" .) .Release.Namespace | quote }}
{{- else }}
{{- range $number := until (int .Values.engine.replicas) }}
- --engine
- {{ include "hearken.engineUrl" (dict "root" $ "number" $number) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* What --kafka is told: addresses, or the file of client settings. */}}
{{- define "hearken.kafka" -}}
{{- .Values.kafka.bootstrapServers | default (printf "/kafka/%s" .Values.kafka.key) }}
{{- end }}

{{- define "hearken.kafkaArgs" -}}
- --kafka
- {{ include "hearken.kafka" . | quote }}
{{- end }}

{{- define "hearken.kafkaMount" -}}
{{- if .Values.kafka.clientSecret }}
- {name: kafka, mountPath: /kafka, readOnly: true}
{{- end }}
{{- end }}

{{/* Readable for the pod's group alone: it holds a password, or a key. */}}
{{- define "hearken.kafkaVolume" -}}
{{- with .Values.kafka.clientSecret }}
- name: kafka
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{/* The file of settings: flags that the chart gives go over it. */}}
{{- define "hearken.configArgs" -}}
{{- if .Values.config }}
- --config
- /etc/hearken/hearken.toml
{{- end }}
{{- end }}

{{- define "hearken.configMount" -}}
{{- if .Values.config }}
- {name: config, mountPath: /etc/hearken, readOnly: true}
{{- end }}
{{- end }}

{{- define "hearken.configVolume" -}}
{{- if .Values.config }}
- name: config
  configMap: {name: {{ include "hearken.fullname" . }}-settings}
{{- end }}
{{- end }}

{{/* Annotations of a pod, which is made anew when its settings change. Takes root, part. */}}
{{- define "hearken.podAnnotations" -}}
{{- with .root.Values.config }}
checksum/config: {{ toToml . | sha256sum }}
{{- end }}
{{- with .part.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "hearken.accessArgs" -}}
{{- with .Values.access }}
{{- if .keysSecret }}
- --keys
- /keys/keys.json
{{- end }}
{{- range $name, $number := .limits }}
- --limit
- {{ printf "%s=%d" $name (int64 $number) | quote }}
{{- end }}
{{- range .corsOrigins }}
- --cors-origin
- {{ . | quote }}
{{- end }}
{{- range .trustedProxies }}
- --trusted-proxy
- {{ . | quote }}
{{- end }}
{{- end }}
{{- /* The Service by its name in the namespace, and all names below it; shorter ones have no dot. */}}
- --trusted-host
- {{ printf "%s.%s" (include "hearken.fullname" .) .Release.Namespace | quote }}
- --trusted-host
- {{ printf "*.%s.svc" .Release.Namespace | quote }}
{{- if .Values.ingress.enabled }}
{{- range .Values.ingress.hosts }}
- --trusted-host
- {{ . | quote }}
{{- end }}
{{- end }}
{{- if .Values.httpRoute.enabled }}
{{- range .Values.httpRoute.hostnames }}
- --trusted-host
- {{ . | quote }}
{{- end }}
{{- end }}
{{- range .Values.access.trustedHosts }}
- --trusted-host
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "hearken.redisArgs" -}}
{{- if or .Values.redis.url .Values.redis.existingSecret }}
- --redis
- {{ ternary "$(REDIS_URL)" .Values.redis.url (ne .Values.redis.existingSecret "") | quote }}
{{- end }}
{{- end }}

{{- define "hearken.redisEnv" -}}
{{- with .Values.redis }}
{{- if .existingSecret }}
- name: REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* The secret that webhooks are signed with: in no argument, and in no ConfigMap. */}}
{{- define "hearken.webhookEnv" -}}
{{- with .Values.controller.webhookSecret }}
{{- if .existingSecret }}
- name: HEARKEN_WEBHOOK_SECRET
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* Where engines and learner find the model, and what they need to fetch it. */}}
{{- define "hearken.modelEnv" -}}
{{- if .Values.model.existingClaim }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- with .Values.model.tokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: HF_TOKEN}}
{{- end }}
{{- end }}

{{- define "hearken.modelMount" -}}
{{- if .Values.model.existingClaim }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end }}

{{- define "hearken.modelVolume" -}}
{{- with .Values.model.existingClaim }}
- name: models
  persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
{{- end }}
{{- end }}

{{/* The bucket of adapters, for controller and learner. */}}
{{- define "hearken.registryArgs" -}}
{{- with .Values.adapters.s3 }}
{{- if .url }}
- --set
- {{ printf "service.registry=%s" .url | quote }}
- --set
- service.fetch_port={{ .fetchPort }}
{{- end }}
{{- end }}
{{- end }}

{{/* What AWS's client is told, but for credentials. */}}
{{- define "hearken.registryEnv" -}}
{{- with .Values.adapters.s3 }}
{{- if .endpoint }}
- {name: AWS_ENDPOINT_URL_S3, value: {{ .endpoint | quote }}}
{{- end }}
{{- if .region }}
- {name: AWS_REGION, value: {{ .region | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The credentials, in no argument and in no ConfigMap. */}}
{{- define "hearken.registryCredentials" -}}
{{- with .Values.adapters.s3.credentialsSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{/* Adapters have the same path in every pod: the engine opens the path that it is told. With a bucket there is no
volume, and every pod has copies of its own. */}}
{{- define "hearken.adapterMounts" -}}
{{- if not .root.Values.adapters.s3.url }}
- {name: adapters, mountPath: /data/adapters, subPath: adapters, readOnly: {{ .readOnly }}}
{{- if .rollouts }}
- {name: adapters, mountPath: /data/learner/rollouts, subPath: rollouts, readOnly: {{ .readOnly }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Users' keys have a volume of their own, for gateways seal texts and the learner opens them. */}}
{{- define "hearken.vaultMount" -}}
- {name: vault, mountPath: /data/vault}
{{- if .Values.vault.takeOver }}
- {name: adapters, mountPath: /data/vault-before, subPath: vault}
{{- end }}
{{- end }}

{{- define "hearken.vaultVolume" -}}
- name: vault
  persistentVolumeClaim:
    claimName: {{ .Values.vault.existingClaim | default (printf "%s-vault" (include "hearken.fullname" .)) }}
{{- end }}

{{- define "hearken.adapterVolume" -}}
{{- if not .Values.adapters.s3.url }}
- name: adapters
  persistentVolumeClaim:
    claimName: {{ .Values.adapters.existingClaim | default (printf "%s-adapters" (include "hearken.fullname" .)) }}
{{- end }}
{{- end }}

{{- define "hearken.secretName" -}}
{{- .Values.signingSecret.existingSecret | default (printf "%s-signing" (include "hearken.fullname" .)) }}
{{- end }}

{{/* The same secret for all: gateways sign with it, and every process knows its service by it. */}}
{{- define "hearken.secretMount" -}}
- {name: secret, mountPath: /data/secret, subPath: secret, readOnly: true}
{{- end }}

{{- define "hearken.secretVolume" -}}
- name: secret
  secret:
    secretName: {{ include "hearken.secretName" . }}
    defaultMode: 0440
    items: [{key: {{ .Values.signingSecret.key }}, path: secret}]
{{- end }}

{{- define "hearken.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.security.runAsUser }}
runAsGroup: {{ .Values.security.runAsUser }}
fsGroup: {{ .Values.security.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "hearken.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What every pod has in common. Takes root, part (its section of the values). */}}
{{- define "hearken.pod" -}}
serviceAccountName: {{ include "hearken.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "hearken.podSecurity" .root | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Requests and limits, with the GPUs of the section added to both. Each is made from a table of its own: `merge`
writes into its first argument. */}}
{{- define "hearken.resources" -}}
{{- $resources := deepCopy .resources }}
{{- if gt (int .gpus) 0 }}
{{- range $kind := list "requests" "limits" }}
{{- $gpu := dict $.gpuResource (int $.gpus) }}
{{- $_ := set $resources $kind (merge $gpu (get $resources $kind | default dict)) }}
{{- end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "hearken.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  {{- with .root }}
  labels:
    {{- include "hearken.labels" . | nindent 4 }}
  {{- end }}
spec:
  accessModes: [ReadWriteOnce]
  {{- with .storage.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources: {requests: {storage: {{ .storage.size }}}}
{{- end }}
