{{/* The pod of the head and of each worker group. Takes a dict: root, group (its settings), name, kind (head or worker). */}}
{{- define "expertmesh.pod" -}}
{{- $root := .root -}}
{{- $group := .group -}}
{{- $drain := int (ceil ($root.Values.config.cluster.drain_seconds | default 30)) -}}
{{- $notice := int (ceil ($root.Values.config.cluster.drain_notice_seconds | default 0)) -}}
{{- $fresh := and (eq .kind "head") (eq $root.Values.upgrade.onConfigChange "NewCluster") -}}
metadata:
  labels:
    {{- /* No version here: a new chart alone must not make KubeRay build a new cluster. */}}
    {{- include "expertmesh.selector" $root | nindent 4 }}
    expertmesh.io/group: {{ .name }}
    {{- with $group.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if eq .kind "worker" }}
    expertmesh.io/front: {{ gt (int $group.fronts) 0 | quote }}
    expertmesh.io/router: {{ gt (int $group.routers) 0 | quote }}
    expertmesh.io/shard: {{ gt (int $group.shards) 0 | quote }}
    {{- end }}
  {{- if or $group.annotations $fresh }}
  annotations:
    {{- with $group.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if $fresh }}
    expertmesh.io/config: {{ include "expertmesh.serveConfig" $root | sha256sum }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ eq .kind "head" | ternary (include "expertmesh.headServiceAccount" $root) (include "expertmesh.serviceAccount" $root) }}
  automountServiceAccountToken: {{ and (eq .kind "head") $root.Values.autoscaling.enabled }}
  enableServiceLinks: false
  # The last streams, and a little for Ray to end.
  terminationGracePeriodSeconds: {{ add $notice $drain 30 }}
  securityContext:
    {{- with omit ($root.Values.podSecurityContext | default dict) "sysctls" }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    sysctls:
      # The data plane takes free ports: of this range, which no fixed port lies in.
      - name: net.ipv4.ip_local_port_range
        value: {{ printf "%d %d" (int $root.Values.ports.dataPlane.first) (int $root.Values.ports.dataPlane.last) | quote }}
      {{- with get ($root.Values.podSecurityContext | default dict) "sysctls" }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "expertmesh.scheduling" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if eq $root.Values.checkpoint.type "init" }}
  initContainers:
    - name: fetch-checkpoint
      image: {{ $root.Values.checkpoint.init.image | quote }}
      command:
        {{- toYaml $root.Values.checkpoint.init.command | nindent 8 }}
      env:
        # Pods without routers and shards read the configuration, the tokenizer and the tensors' headers only.
        - name: EXPERTMESH_WEIGHTS
          value: {{ and (eq .kind "worker") (gt (add ($group.routers | default 0) ($group.shards | default 0)) 0) | quote }}
        - {name: HOME, value: /tmp}
        {{- with $root.Values.checkpoint.init.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      resources:
        requests: {cpu: 500m, memory: 512Mi}
        limits: {cpu: "2", memory: 4Gi}
      {{- with include "expertmesh.containerSecurity" $root }}
      {{- . | nindent 6 }}
      {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: checkpoint, mountPath: /checkpoint}
  {{- end }}
  containers:
    - name: ray-{{ .kind }}
      image: {{ include "expertmesh.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      {{- with include "expertmesh.containerSecurity" $root }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- include "expertmesh.containerPorts" . | nindent 6 }}
      env:
        {{- include "expertmesh.env" . | nindent 8 }}
      {{- with $group.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- include "expertmesh.probes" . | nindent 6 }}
      lifecycle:
        preStop:
          exec:
            {{- if eq .kind "worker" }}
            # Fronts refuse, routers hand over, shards wait for their routers: only what runs in this pod.
            command: [expertmesh, drain, --address, auto, --here, --notice, {{ $notice | quote }}, --seconds, {{ $drain | quote }}]
            {{- else }}
            # Without Ray's head the others cannot drain.
            command: [sleep, {{ add $notice $drain | quote }}]
            {{- end }}
      resources:
        {{- include "expertmesh.resources" . | nindent 8 }}
      volumeMounts:
        {{- include "expertmesh.mounts" . | nindent 8 }}
  volumes:
    {{- include "expertmesh.volumes" . | nindent 4 }}
{{- end -}}

{{- define "expertmesh.containerSecurity" -}}
{{- with .Values.containerSecurityContext -}}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "expertmesh.containerPorts" -}}
ports:
  {{- if eq .kind "head" }}
  - {name: gcs-server, containerPort: 6379}
  - {name: dashboard, containerPort: 8265}
  {{- else if gt (int .group.fronts) 0 }}
  - {name: grpc, containerPort: {{ int .root.Values.ports.grpc }}}
  - {name: front-metrics, containerPort: {{ int .root.Values.ports.metrics }}}
  {{- if .root.Values.http.enabled }}
  - {name: http, containerPort: {{ int .root.Values.ports.http }}}
  {{- end }}
  {{- end }}
  - {name: metrics, containerPort: 8080}
{{- end -}}

{{- define "expertmesh.env" -}}
- {name: HOME, value: /tmp}
- {name: TMPDIR, value: /tmp}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
- {name: OMP_WAIT_POLICY, value: passive}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
# Ray would give what it starts the lowest priority of the node's processes.
- {name: RAY_worker_niceness, value: "0"}
- {name: RAY_ROTATION_MAX_BYTES, value: {{ int64 .root.Values.rayLogs.maxBytes | quote }}}
- {name: RAY_ROTATION_BACKUP_COUNT, value: {{ int64 .root.Values.rayLogs.backupCount | quote }}}
# A replica that hangs cannot drain: Serve must not wait for it.
- {name: RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS, value: "1"}
{{- with .group.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Liveness asks Ray's node process, never the model: a busy server answers, and Serve replaces hung replicas itself. */}}
{{- define "expertmesh.probes" -}}
{{- $asks := and (eq .kind "worker") (eq (int .group.fronts) 0) -}}
livenessProbe:
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  initialDelaySeconds: 60
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 30
readinessProbe:
  {{- if eq .kind "head" }}
  httpGet: {path: /api/gcs_healthz, port: 8265}
  {{- else if gt (int .group.fronts) 0 }}
  {{- /* Beside the metrics, in plaintext whether the API has TLS or not. */}}
  httpGet: {path: /healthz, port: {{ int .root.Values.ports.metrics }}}
  {{- else }}
  {{- /* No Service selects these pods. A budget must not let the next one go before the last one's weights are loaded. */}}
  exec: {command: [python3, -P, -m, cluster.serve.readiness_probe]}
  {{- end }}
  periodSeconds: {{ $asks | ternary 10 5 }}
  timeoutSeconds: {{ $asks | ternary 10 5 }}
  failureThreshold: 3
{{- end -}}

{{- define "expertmesh.resources" -}}
{{- $resources := deepCopy .group.resources -}}
{{- if gt (int (.group.gpus | default 0)) 0 -}}
{{- $gpus := dict .group.gpuResource (toString (int .group.gpus)) -}}
{{- $resources = mustMergeOverwrite $resources (dict "requests" $gpus "limits" $gpus) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- define "expertmesh.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: secret, mountPath: /etc/expertmesh/secret, readOnly: true}
{{- if ne .root.Values.checkpoint.type "bundled" }}
- {name: checkpoint, mountPath: /checkpoint, readOnly: true}
{{- end }}
{{- if gt (int .group.fronts) 0 }}
{{- if .root.Values.tls.enabled }}
- {name: tls, mountPath: /etc/expertmesh/tls, readOnly: true}
{{- end }}
{{- if .root.Values.tokens.enabled }}
- {name: tokens, mountPath: /etc/expertmesh/tokens, readOnly: true}
{{- end }}
{{- end }}
{{- with .group.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "expertmesh.volumes" -}}
{{- $values := .root.Values -}}
- name: secret
  secret: {secretName: {{ include "expertmesh.secretName" .root }}, defaultMode: 0440}
- name: tmp
  emptyDir: {sizeLimit: {{ $values.tmp.sizeLimit }}}
{{- if eq $values.checkpoint.type "pvc" }}
- name: checkpoint
  persistentVolumeClaim: {claimName: {{ include "expertmesh.claimName" .root }}, readOnly: true}
{{- else if eq $values.checkpoint.type "hostPath" }}
- name: checkpoint
  hostPath: {path: {{ $values.checkpoint.hostPath | quote }}, type: Directory}
{{- else if eq $values.checkpoint.type "init" }}
- name: checkpoint
  emptyDir: {sizeLimit: {{ $values.checkpoint.init.sizeLimit }}}
{{- end }}
{{- if gt (int .group.fronts) 0 }}
{{- if $values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "expertmesh.tlsSecret" .root }}, defaultMode: 0440}
{{- end }}
{{- if $values.tokens.enabled }}
- name: tokens
  secret:
    secretName: {{ include "expertmesh.tokensSecret" .root }}
    defaultMode: 0440
    items:
      - {key: {{ $values.tokens.key }}, path: tokens}
{{- end }}
{{- end }}
{{- with .group.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where a pod may run. */}}
{{- define "expertmesh.scheduling" -}}
{{- $group := .group -}}
{{- $class := $group.priorityClassName -}}
{{- if and (not $class) .root.Values.priorityClass.create -}}
{{- $class = printf "%s-serving" (include "expertmesh.fullname" .root) -}}
{{- end -}}
{{- with $class }}
priorityClassName: {{ . }}
{{- end }}
{{- with $group.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $group.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $group.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $group.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $group.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: {{ $group.topologySpread.maxSkew }}
    topologyKey: {{ $group.topologySpread.topologyKey }}
    whenUnsatisfiable: {{ $group.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "expertmesh.selector" .root | nindent 8 }}
        expertmesh.io/group: {{ .name }}
{{- end }}
{{- end -}}
