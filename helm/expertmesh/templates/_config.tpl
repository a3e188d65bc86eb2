{{/* The application's configuration: `config`, and what this chart decides. */}}
{{- define "expertmesh.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $front := dict "host" "0.0.0.0" "grpc_port" (int .Values.ports.grpc) "metrics_host" "0.0.0.0" "metrics_port" (int .Values.ports.metrics) -}}
{{- if .Values.http.enabled -}}
{{- $front = mustMergeOverwrite $front (dict "http_host" "0.0.0.0" "http_port" (int .Values.ports.http)) -}}
{{- end -}}
{{- if .Values.tls.enabled -}}
{{- $_ := set $front "tls_cert" "/etc/expertmesh/tls/tls.crt" -}}
{{- $_ := set $front "tls_key" "/etc/expertmesh/tls/tls.key" -}}
{{- if .Values.tls.clientCa -}}{{- $_ := set $front "tls_client_ca" "/etc/expertmesh/tls/ca.crt" -}}{{- end -}}
{{- end -}}
{{- if .Values.tokens.enabled -}}{{- $_ := set $front "tokens_file" "/etc/expertmesh/tokens/tokens" -}}{{- end -}}
{{- if .Values.tokens.allowUnauthenticated -}}{{- $_ := set $front "allow_unauthenticated" true -}}{{- end -}}
{{- $cluster := dict "address" "auto" "front_resource" "expertmesh_front" "router_resource" "expertmesh_router" "shard_resource" "expertmesh_shard" "secret_file" "/etc/expertmesh/secret/secret" -}}
{{- $model := dict -}}
{{- if ne .Values.checkpoint.type "bundled" -}}
{{- $model = dict "checkpoint" (printf "/checkpoint/%s" (.Values.checkpoint.path | default "") | trimSuffix "/") -}}
{{- end -}}
{{- $config = mustMergeOverwrite $config (dict "front" $front "cluster" $cluster "model" $model) -}}
{{- if not .Values.http.enabled -}}{{- $_ := set $config.front "http_port" nil -}}{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* What Ray Serve runs. The Front has servers of its own: Serve's proxies stay off. */}}
{{- define "expertmesh.serveConfig" -}}
proxy_location: Disabled
applications:
  - name: expertmesh
    import_path: cluster.serve.application:build
    route_prefix: null
    args:
      {{- include "expertmesh.config" . | nindent 6 }}
{{- end -}}

{{/* Ray's ports are fixed, so that the network policies can tell them from the data plane's. */}}
{{- define "expertmesh.rayStartParams" -}}
object-store-memory: "100000000"
node-manager-port: "6800"
object-manager-port: "6801"
runtime-env-agent-port: "6802"
dashboard-agent-grpc-port: "6803"
dashboard-agent-listen-port: "52365"
metrics-export-port: "8080"
min-worker-port: "10002"
max-worker-port: "19999"
{{- end -}}
