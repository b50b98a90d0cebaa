use super::*;
use crate::endpoint::Address;

fn locality(text: &str) -> Locality {
    let mut parts = text.split('/').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    Locality { region: part(), zone: part(), subzone: part() }
}

fn rules(text: &str) -> (Localities, Findings) {
    let mut findings = Findings::default();
    let schema: schema::LocalityLbSetting = serde_saphyr::from_str(text).unwrap();
    (Localities::parse(&schema, "l", &mut findings), findings)
}

/// What becomes of endpoints at these places, one each, seen from `here`: place, priority and weight.
fn placed(setting: &str, here: &str, places: &[&str], fails_over: bool) -> Vec<(String, u32, Option<u32>)> {
    let (rules, findings) = rules(setting);
    assert!(findings.refusals.is_empty(), "{findings:?}");
    let labels: Vec<BTreeMap<String, String>> =
        places.iter().map(|place| [("place".to_owned(), (*place).to_owned())].into()).collect();
    let members: Vec<_> = places
        .iter()
        .zip(&labels)
        .map(|(place, labels)| Member {
            endpoint: Endpoint::new(Address::Socket(([10, 0, 0, 1], 80).into())),
            locality: locality(place),
            labels,
            mesh_tls: None,
            logical: false,
        })
        .collect();
    let options = Options {
        locality: locality(here),
        labels: [("place".to_owned(), here.to_owned())].into(),
        ..Options::default()
    };
    let (localities, _) = rules.place(members.iter(), &options, fails_over);
    localities.into_iter().map(|place| (place.locality.to_string(), place.priority, place.weight)).collect()
}

fn priorities(setting: &str, here: &str, places: &[&str]) -> Vec<(String, u32)> {
    placed(setting, here, places, true).into_iter().map(|(place, priority, _)| (place, priority)).collect()
}

fn named(places: &[(&str, u32)]) -> Vec<(String, u32)> {
    places.iter().map(|(place, priority)| ((*place).to_owned(), *priority)).collect()
}

const PLACES: [&str; 5] = ["us/east/a", "us/east/b", "us/west/a", "eu/north/a", "asia/south/a"];

#[test]
fn connections_fail_over_from_near_to_far() {
    let wanted =
        [("us/east/a", 0), ("us/east/b", 1), ("us/west/a", 2), ("asia/south/a", 3), ("eu/north/a", 3)];
    assert_eq!(priorities("{}", "us/east/a", &PLACES), named(&wanted));
    // Priorities have no gaps.
    assert_eq!(
        priorities("{}", "us/west/b", &PLACES[1..4]),
        named(&[("us/west/a", 0), ("us/east/b", 1), ("eu/north/a", 2)])
    );
}

#[test]
fn a_region_fails_over_to_the_one_that_is_named_for_it() {
    let setting = "{failover: [{from: us, to: eu}]}";
    let wanted =
        [("us/east/a", 0), ("us/east/b", 1), ("us/west/a", 2), ("eu/north/a", 3), ("asia/south/a", 4)];
    assert_eq!(priorities(setting, "us/east/a", &PLACES), named(&wanted));
}

#[test]
fn without_outlier_detection_or_a_known_place_or_when_off_all_have_the_same_priority() {
    let flat = |setting, here, fails_over| {
        placed(setting, here, &PLACES, fails_over).iter().all(|(_, priority, _)| *priority == 0)
    };
    assert!(flat("{}", "us/east/a", false));
    assert!(flat("{}", "", true));
    assert!(flat("{enabled: false}", "us/east/a", true));
    assert!(!flat("{enabled: true}", "us/east/a", true));
}

#[test]
fn labels_in_common_come_first_in_the_order_of_failover_priority() {
    let by_zone = "{failoverPriority: [topology.kubernetes.io/region, topology.kubernetes.io/zone]}";
    let wanted =
        [("us/east/a", 0), ("us/east/b", 0), ("us/west/a", 1), ("asia/south/a", 2), ("eu/north/a", 2)];
    assert_eq!(priorities(by_zone, "us/east/a", &PLACES), named(&wanted));
    let by_value = "{failoverPriority: ['place=eu/north/a']}";
    assert_eq!(priorities(by_value, "us/east/a", &PLACES)[0], ("eu/north/a".to_owned(), 0));
}

#[test]
fn a_distribution_gives_shares_and_leaves_out_what_it_does_not_name() {
    let setting = "{distribute: [{from: us/east/*, to: {'us/east/*': 70, us/west: 20, 'eu/*': 10}}]}";
    let wanted = [("eu/north/a", 10), ("us/east/a", 35), ("us/east/b", 35), ("us/west/a", 20)];
    let wanted: Vec<_> = wanted.map(|(place, weight)| (place.to_owned(), 0, Some(weight))).into();
    assert_eq!(placed(setting, "us/east/b", &PLACES, true), wanted);
    // Nothing is said to gateways elsewhere.
    assert!(
        placed(setting, "us/west/a", &PLACES, true).iter().all(|place| place.1 == 0 && place.2.is_none())
    );
}

#[test]
fn an_exact_place_goes_before_any() {
    let setting = "{distribute: [{from: '*', to: {'*': 10, us/west/a: 90}}]}";
    let placed = placed(setting, "us/east/a", &["us/east/a", "us/west/a"], false);
    assert_eq!(placed.iter().map(|place| place.2).collect::<Vec<_>>(), [Some(10), Some(90)]);
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    for (setting, field) in [
        ("{distribute: [{from: a, to: {b: 50}}]}", "l.distribute[0].to"),
        ("{distribute: [{from: a, to: {b: -10, c: 110}}]}", "l.distribute[0].to"),
        ("{failover: [{from: a, to: a}]}", "l.failover[0]"),
        ("{distribute: [{from: a, to: {b: 100}}], failover: [{from: a, to: b}]}", "l.distribute"),
    ] {
        let fields: Vec<_> = rules(setting).1.refusals.into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, [field], "{setting}");
    }
}
