{{- /* A pod of the gateway, for a Deployment and a DaemonSet alike. */ -}}
{{- define "eastgate.pod" -}}
metadata:
  labels:
    {{- include "eastgate.labels" . | nindent 4 }}
    sidecar.istio.io/inject: "false"
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Settings are read once, so that a change of theirs makes new pods.
    eastgate/settings: {{ include (print $.Template.BasePath "/settings.yaml") . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "eastgate.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.source.kubernetes.enabled }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- if .Values.securityContext }}
    {{- toYaml .Values.securityContext | nindent 4 }}
    {{- else }}
    runAsNonRoot: true
    runAsUser: 1337
    runAsGroup: 1337
    fsGroup: 1337
    seccompProfile: {type: RuntimeDefault}
    # Ports below 1024 without a capability, as Istio's chart has it.
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]
    {{- end }}
  {{- with .Values.initContainers }}
  initContainers: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
  - name: eastgate
    image: "{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}"
    {{- with .Values.imagePullPolicy }}
    imagePullPolicy: {{ . }}
    {{- end }}
    args: [run, --config, /etc/eastgate/settings.yaml]
    env:
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: INSTANCE_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: SERVICE_ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: ISTIO_META_NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: ISTIO_META_WORKLOAD_NAME, value: {{ include "eastgate.name" . | quote }}}
    - {name: EASTGATE_NODE_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    {{- with .Values.networkGateway }}
    - {name: ISTIO_META_NETWORK, value: {{ . | quote }}}
    - {name: ISTIO_META_REQUESTED_NETWORK_VIEW, value: {{ . | quote }}}
    {{- end }}
    {{- range $name, $value := .Values.env }}
    - {name: {{ $name }}, value: {{ $value | quote }}}
    {{- end }}
    {{- with .Values.envVarFrom }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    ports:
    {{- range (include "eastgate.ports" . | fromYamlArray) }}
    - {name: {{ .name }}, containerPort: {{ default .port .targetPort }}, protocol: {{ default "TCP" .protocol }}}
    {{- end }}
    - {name: metrics, containerPort: 15090, protocol: TCP}
    {{- if .Values.dns.enabled }}
    - {name: dns, containerPort: 53, protocol: UDP}
    - {name: dns-tcp, containerPort: 53, protocol: TCP}
    {{- end }}
    readinessProbe:
      {{- if .Values.readinessProbe }}
      {{- toYaml .Values.readinessProbe | nindent 6 }}
      {{- else }}
      httpGet: {path: /healthz/ready, port: 15021, scheme: HTTP}
      periodSeconds: 2
      timeoutSeconds: 2
      {{- end }}
    {{- with .Values.livenessProbe }}
    livenessProbe: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.lifecycle }}
    lifecycle: {{- toYaml . | nindent 6 }}
    {{- end }}
    resources: {{- toYaml .Values.resources | nindent 6 }}
    securityContext:
      {{- if .Values.containerSecurityContext }}
      {{- toYaml .Values.containerSecurityContext | nindent 6 }}
      {{- else }}
      allowPrivilegeEscalation: false
      privileged: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
      {{- end }}
    volumeMounts: {{- include "eastgate.mounts" . | nindent 4 }}
  {{- with .Values.additionalContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  volumes: {{- include "eastgate.volumes" . | nindent 2 }}
  topologySpreadConstraints:
  {{- if .Values.topologySpreadConstraints }}
  {{- toYaml .Values.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "eastgate.selectorLabels" $ | nindent 8 }}
  {{- end }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" }}
  {{- with index $.Values $key }}
  {{ $key }}: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end }}

{{- define "eastgate.mounts" -}}
- {name: settings, mountPath: /etc/eastgate, readOnly: true}
- {name: pod-info, mountPath: /etc/istio/pod, readOnly: true}
{{- if .Values.source.xds.enabled }}
- {name: istio-token, mountPath: /var/run/secrets/tokens, readOnly: true}
- {name: istio-root, mountPath: /var/run/secrets/istio, readOnly: true}
- {name: state, mountPath: /var/lib/eastgate}
{{- else if .Values.source.meshConfigMap }}
- {name: mesh, mountPath: /etc/eastgate/mesh, readOnly: true}
{{- end }}
{{- with .Values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "eastgate.volumes" -}}
- name: settings
  configMap: {name: {{ include "eastgate.name" . }}-settings}
- name: pod-info
  downwardAPI:
    items:
    - {path: labels, fieldRef: {fieldPath: metadata.labels}}
    - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
{{- if .Values.source.xds.enabled }}
- name: istio-token
  projected:
    sources:
    - serviceAccountToken: {path: istio-token, audience: {{ .Values.source.xds.audience }}, expirationSeconds: 43200}
- name: istio-root
  configMap: {name: {{ .Values.source.xds.rootCertificate }}}
- name: state
  {{- toYaml .Values.source.xds.stateDir | nindent 2 }}
{{- else if .Values.source.meshConfigMap }}
- name: mesh
  configMap: {name: {{ .Values.source.meshConfigMap }}}
{{- end }}
{{- with .Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
