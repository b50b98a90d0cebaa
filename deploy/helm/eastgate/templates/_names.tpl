{{- define "eastgate.name" -}}
{{- default .Release.Name .Values.name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "eastgate.serviceAccountName" -}}
{{- default (include "eastgate.name" .) .Values.serviceAccount.name -}}
{{- end }}

{{- /* What of Gateways' selectors this gateway is. */ -}}
{{- define "eastgate.istioLabel" -}}
{{- get (dict "eastwest" "eastwestgateway" "ingress" "ingressgateway" "egress" "egressgateway") .Values.role -}}
{{- end }}

{{- /* What a Service and a Deployment select by: it may never change. */ -}}
{{- define "eastgate.selectorLabels" -}}
app: {{ include "eastgate.name" . }}
istio: {{ include "eastgate.istioLabel" . }}
{{- end }}

{{- define "eastgate.labels" -}}
{{ include "eastgate.selectorLabels" . }}
app.kubernetes.io/name: {{ include "eastgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.networkGateway }}
topology.istio.io/network: {{ . | quote }}
{{- end }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The Service's ports by role: what Istio's own charts open there. */ -}}
{{- define "eastgate.ports" -}}
{{- if .Values.service.ports -}}
{{ toYaml .Values.service.ports }}
{{- else -}}
- {name: status-port, port: 15021, targetPort: 15021, protocol: TCP}
- {name: tls, port: 15443, targetPort: 15443, protocol: TCP, appProtocol: tls}
{{- if eq .Values.role "eastwest" }}
- {name: tls-istiod, port: 15012, targetPort: 15012, protocol: TCP, appProtocol: tls}
- {name: tls-webhook, port: 15017, targetPort: 15017, protocol: TCP, appProtocol: tls}
{{- end }}
{{- end }}
{{- end }}

{{- /* Fails early, in words, where the values contradict each other. */ -}}
{{- define "eastgate.check" -}}
{{- $sources := 0 -}}
{{- if .Values.source.xds.enabled }}{{ $sources = add1 $sources }}{{ end -}}
{{- if .Values.source.kubernetes.enabled }}{{ $sources = add1 $sources }}{{ end -}}
{{- if .Values.source.meshConfigMap }}{{ $sources = add1 $sources }}{{ end -}}
{{- if ne (int $sources) 1 -}}
{{- fail (printf "choose one source: source.xds.enabled, source.kubernetes.enabled or source.meshConfigMap (%d are set)" (int $sources)) -}}
{{- end -}}
{{- if and .Values.dns.enabled .Values.source.xds.enabled -}}
{{- fail "dns.enabled wants source.kubernetes or source.meshConfigMap: istiod sends gateways an empty name table (docs/dns.md)" -}}
{{- end -}}
{{- end }}
