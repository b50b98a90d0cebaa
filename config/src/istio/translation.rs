//! From all resources to a snapshot: a pure function of them and the options.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::authorization::AuthorizationPolicy;
use super::catalog::{Catalog, Member};
use super::destination_rule::DestinationRule;
use super::envoy_filter::EnvoyFilter;
use super::gateway::Gateway;
use super::networks::{Namespace, Networks};
use super::resource::{Object, Spec};
use super::rules::Rules;
use super::service::{EndpointSlice, Pod, Service};
use super::service_entry::{ServiceEntry, Workload};
use super::traffic_policy::Policy;
use super::virtual_service::VirtualService;
use super::{Options, authorization, listeners, names, originate};
use crate::cluster::{Cluster, Dns, DnsFamily};
use crate::listener::ProxyProtocol;
use crate::rejection::Notice;
use crate::secrets::{Pem, Secrets};
use crate::snapshot::Snapshot;

/// The resources by kind, each by namespace and name.
#[derive(Debug, Default)]
pub(super) struct Resources<'a> {
    pub(super) gateways: Vec<(&'a Object, &'a Gateway)>,
    pub(super) virtual_services: Vec<(&'a Object, &'a VirtualService)>,
    pub(super) destination_rules: Vec<(&'a Object, &'a DestinationRule)>,
    pub(super) service_entries: Vec<(&'a Object, &'a ServiceEntry)>,
    pub(super) workload_entries: Vec<(&'a Object, &'a Workload)>,
    pub(super) envoy_filters: Vec<(&'a Object, &'a EnvoyFilter)>,
    pub(super) services: Vec<(&'a Object, &'a Service)>,
    pub(super) endpoint_slices: Vec<(&'a Object, &'a EndpointSlice)>,
    pub(super) pods: Vec<(&'a Object, &'a Pod)>,
    pub(super) namespaces: Vec<(&'a Object, &'a Namespace)>,
    pub(super) authorization_policies: Vec<(&'a Object, &'a AuthorizationPolicy)>,
    pub(super) secrets: Vec<(&'a Object, &'a Pem)>,
}

impl<'a> Resources<'a> {
    fn new(objects: impl Iterator<Item = &'a Object>) -> Self {
        let mut all = Self::default();
        for object in objects {
            match &object.spec {
                Spec::Gateway(spec) => all.gateways.push((object, spec)),
                Spec::VirtualService(spec) => all.virtual_services.push((object, spec)),
                Spec::DestinationRule(spec) => all.destination_rules.push((object, spec)),
                Spec::ServiceEntry(spec) => all.service_entries.push((object, spec)),
                Spec::WorkloadEntry(spec) => all.workload_entries.push((object, spec)),
                Spec::EnvoyFilter(spec) => all.envoy_filters.push((object, spec)),
                Spec::Service(spec) => all.services.push((object, spec)),
                Spec::EndpointSlice(spec) => all.endpoint_slices.push((object, spec)),
                Spec::Pod(spec) => all.pods.push((object, spec)),
                Spec::Namespace(spec) => all.namespaces.push((object, spec)),
                Spec::AuthorizationPolicy(spec) => all.authorization_policies.push((object, spec)),
                Spec::Secret(spec) => all.secrets.push((object, spec)),
            }
        }
        all
    }
}

/// What the translation of every listener reads.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) options: &'a Options,
    pub(super) resources: Resources<'a>,
    pub(super) networks: Networks<'a>,
    pub(super) catalog: Catalog<'a>,
    pub(super) rules: Rules<'a>,
    /// Those of the gateway's namespace.
    pub(super) secrets: Secrets,
}

/// What it writes.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) clusters: BTreeMap<String, Arc<Cluster>>,
    pub(super) notices: Vec<Notice>,
}

impl Output {
    /// Tells the author of a resource something.
    pub(super) fn notice(&mut self, object: &Object, field: &str, message: impl Into<String>) {
        let place = object.origin.place(&object.name, field);
        self.notices.push(Notice { place, message: message.into() });
    }

    /// The resource has a part in the snapshot: what was noticed when it was read matters now.
    pub(super) fn uses(&mut self, object: &Object) {
        for (field, message) in &object.notices {
            self.notice(object, field, message);
        }
    }

    /// Adds a cluster of these endpoints, unless it is there already.
    pub(super) fn cluster<'m>(
        &mut self,
        name: &str,
        members: impl Iterator<Item = &'m Member<'m>>,
        policy: &Policy,
        options: &Options,
    ) {
        if self.clusters.contains_key(name) {
            return;
        }
        let balance = policy.balance.clone().unwrap_or_default();
        let members: Vec<_> = members.collect();
        let dns = members.iter().any(|member| member.logical).then_some(LOGICAL);
        let (localities, locality_weighted) =
            balance.localities.place(members.into_iter(), options, policy.outliers.is_some());
        let pool = policy.pool.clone().unwrap_or_default();
        let cluster = Cluster {
            policy: balance.policy.unwrap_or_default(),
            slow_start: balance.slow_start,
            connect_timeout: pool.connect_timeout.unwrap_or(options.connect_timeout),
            keepalive: pool.keepalive,
            max_connections: pool.max_connections,
            tls: policy.upstream_tls.clone(),
            proxy_protocol: policy.proxy_protocol,
            outlier_detection: policy.outliers.as_ref().map(|outliers| outliers.detection.clone()),
            panic_threshold: policy.outliers.as_ref().map(|outliers| outliers.panic_threshold),
            localities,
            locality_weighted,
            dns,
            ..Cluster::new(name, Vec::new())
        };
        self.clusters.insert(name.to_owned(), Arc::new(cluster));
    }
}

/// How the name of a ServiceEntry with `DNS_ROUND_ROBIN` is resolved, as istiod has it done. The rate is not needed, since answers
/// say how long they hold.
const LOGICAL: Dns =
    Dns { logical: true, refresh: Duration::from_secs(60), respect_ttl: true, family: DnsFamily::All };

/// Translates; rejections are not its business.
pub(super) fn translate<'a>(objects: impl Iterator<Item = &'a Object>, options: &'a Options) -> Snapshot {
    let mut out = Output::default();
    let resources = Resources::new(objects);
    let networks = Networks::new(&resources.namespaces, options);
    let catalog = Catalog::new(&resources, options, &networks, &mut out);
    let rules = Rules::new(&resources, options);
    let own = resources.secrets.iter().filter(|(object, _)| object.name.namespace == options.namespace);
    let secrets = own.map(|(object, pem)| (object.name.name.clone(), (*pem).clone())).collect();
    let world = World { options, resources, networks, catalog, rules, secrets };
    let mut listeners = listeners::translate(&world, &mut out);
    for listener in listeners.iter_mut().filter(|_| options.proxied) {
        listener.options.proxy_protocol = Some(ProxyProtocol::default());
    }
    let rules = authorization::rules(&world, &mut out);
    authorization::guard(listeners.iter_mut().flat_map(|listener| &mut listener.filter_chains), &rules);
    let names = names::translate(&world, &mut out);
    if let Some(how) = options.originate {
        listeners.extend(originate::listeners(&world, how, &names, &mut out));
    }
    let named = out.clusters.values().filter_map(|cluster| cluster.tls.as_ref()?.credential.as_deref());
    Snapshot {
        secrets: Arc::new(world.secrets.named(named)),
        listeners: listeners
            .into_iter()
            .map(|listener| (listener.name.clone(), Arc::new(listener)))
            .collect(),
        clusters: out.clusters.into(),
        names: Some(Arc::new(names)),
        rejections: Vec::new(),
        notices: out.notices,
    }
}
