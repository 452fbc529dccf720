use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn source(pairs: &[(&str, &str)]) -> Source {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn problems(origin: Origin, pairs: &[(&str, &str)]) -> String {
    resolve(&[(origin, source(pairs))]).unwrap_err().join("\n")
}

#[test]
fn defaults_are_sound() {
    let resolved = resolve(&[]).unwrap();
    assert_eq!(resolved.config.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(resolved.config.limits.cpu, Duration::from_secs(5));
    assert_eq!(resolved.config.limits.memory, 128 << 20);
    assert!(resolved.values.iter().all(|(.., origin)| *origin == Origin::Default));
}

/// Defaults are lowered to fit the memory of the process; explicit values are not.
#[test]
fn defaults_fit_into_the_memory() {
    let sizes = |pairs: &[(&str, &str)]| {
        let machine = (Origin::Default, source(&[("memory", "256MiB")]));
        let resolved = resolve(&[machine, (Origin::File, source(pairs))]).unwrap();
        let shown = resolved.values.into_iter().find(|(name, ..)| name == "listener.memory").unwrap();
        (resolved.config.listener.memory >> 20, resolved.config.responses.memory >> 20, shown.1, shown.2)
    };
    assert_eq!(sizes(&[]), (64, 32, "64.0 MiB".into(), Origin::Default));
    assert_eq!(sizes(&[("listener.memory", "512MiB")]), (512, 32, "512MiB".into(), Origin::File));
    assert_eq!(sizes(&[("memory", "4GiB")]), (512, 64, "512MiB".into(), Origin::Default));
    assert_eq!(sizes(&[("memory", "32MiB")]), (8, 4, "8.0 MiB".into(), Origin::Default));
    assert_eq!(resolve(&[]).unwrap().config.listener.memory, 512 << 20);
    let others = |memory: &str| {
        let resolved = resolve(&[(Origin::Default, source(&[("memory", memory)]))]).unwrap();
        let text = |name: &str| resolved.values.iter().find(|(known, ..)| known == name).unwrap().1.clone();
        (resolved.config.engine.resident >> 20, text("engine.resident"), text("upstreams.connections"))
    };
    assert_eq!(others("256MiB"), (32, "32.0 MiB".into(), "256".into()));
    assert_eq!(others("32MiB"), (4, "4.0 MiB".into(), "32".into()));
    assert_eq!(others("64GiB"), (2048, "2GiB".into(), "4096".into()));
    let engine = |memory: &str, pairs: &[(&str, &str)]| {
        let machine = (Origin::Default, source(&[("memory", memory)]));
        let engine = resolve(&[machine, (Origin::File, source(pairs))]).unwrap().config.engine;
        (engine.instances, engine.warm)
    };
    assert_eq!(engine("64MiB", &[]), (256, 64));
    assert_eq!(engine("64MiB", &[("engine.instances", "900"), ("engine.warm", "200")]), (900, 200));
    assert_eq!(engine("128MiB", &[]), (512, 128));
    assert_eq!(engine("1GiB", &[]), (1000, 250));
    // `auto` is what the machine has, wherever it is written.
    assert_eq!(engine("64MiB", &[("memory", "auto")]), (256, 64));
    assert_eq!(engine("64MiB", &[("memory", "96MiB")]), (384, 96));
}

/// `tls.client = "required"` alone would seem to require certificates.
#[test]
fn settings_without_effect_are_refused() {
    for (name, text, needed) in [
        ("tls.client", "required", "tls.client_ca"),
        ("tls.client", "optional", "tls.client_ca"),
        ("state.ca", "/ca.pem", "state.url"),
        ("state.replicas", "3", "state.url"),
    ] {
        let problem = problems(Origin::File, &[(name, text)]);
        assert_eq!(
            problem,
            format!("lodge.toml: {name}: it has no effect without `{needed}`; set that as well, or remove `{name}`")
        );
    }
    let nobody = problems(Origin::File, &[("listener.proxy_protocol", "on")]);
    assert!(nobody.contains("nobody could connect; name the proxies in `trusted_proxies`"), "{nobody}");
    let tls =
        [("tls.client", "optional"), ("tls.client_ca", "/ca.pem"), ("tls.listen", ":8443"), ("tls.certificates", "/c")];
    assert!(resolve(&[(Origin::Flag, source(&tls))]).is_ok());
}

#[test]
fn the_strongest_source_wins() {
    let sources = [
        (Origin::Flag, source(&[("listen", "127.0.0.1:3")])),
        (Origin::File, source(&[("listen", "127.0.0.1:1"), ("limits.queue", "1"), ("limits.in_flight", "1")])),
        (Origin::Environment, source(&[("listen", "127.0.0.1:2"), ("limits.queue", "2")])),
    ];
    let resolved = resolve(&sources).unwrap();
    assert_eq!(resolved.config.listen.port(), 3);
    assert_eq!((resolved.config.limits.queue, resolved.config.limits.in_flight), (2, 1));
    let origin = |name: &str| resolved.values.iter().find(|value| value.0 == name).unwrap().2;
    let origins = [origin("listen"), origin("limits.queue"), origin("limits.in_flight"), origin("limits.wall")];
    assert_eq!(origins, [Origin::Flag, Origin::Environment, Origin::File, Origin::Default]);
}

#[test]
fn every_problem_at_once_and_where_it_is() {
    let file = source(&[("listener.idel", "1s"), ("limits.wall", "soon")]);
    let environment = source(&[("engine.instances", "0")]);
    let sources = [(Origin::File, file), (Origin::Environment, environment)];
    let problems = resolve(&sources).unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
    let text = problems.join("\n");
    assert!(text.contains("lodge.toml: listener.idel: unknown key; did you mean `listener.idle`?"), "{text}");
    assert!(text.contains("lodge.toml: limits.wall: `soon` is not a time span"), "{text}");
    assert!(text.contains("LODGE_ENGINE_INSTANCES: must be between 1 and 10000"), "{text}");
}

#[test]
fn values_must_agree() {
    let text = problems(Origin::Flag, &[("limits.memory", "2GiB"), ("limits.cpu", "1h"), ("admin", "127.0.0.1:8080")]);
    assert!(text.contains("limits.memory: more than engine.max_memory, which is 1.0 GiB"), "{text}");
    assert!(text.contains("limits.cpu: more than limits.wall"), "{text}");
    assert!(text.contains("admin: 127.0.0.1:8080 is also"), "{text}");
}

#[test]
fn files_and_variables() {
    let file = read_file("listen = '[::1]:1'\ntrusted_proxies = ['10.0.0.0/8', '::1']\n[limits]\nqueue = 7").unwrap();
    let config = resolve(&[(Origin::File, file)]).unwrap().config;
    assert_eq!((config.trusted_proxies.len(), config.limits.queue), (2, 7));
    assert!(read_file("listen = ").unwrap_err().contains("line 1"));

    let vars = [("LODGE_LIMITS_QUEUE", "8"), ("LODGE_SERVICE_HOST", "10.0.0.1"), ("PATH", "/bin")];
    let (known, unknown) = read_environment(vars.iter().map(|(name, text)| ((*name).into(), (*text).into())));
    assert_eq!((known, unknown), (source(&[("limits.queue", "8")]), vec!["LODGE_SERVICE_HOST".to_owned()]));
}

/// A misspelt level would be taken for the name of a module and silence the log.
#[test]
fn levels_are_levels() {
    for (text, sound) in
        [("info", true), ("off", true), ("warn,lodge=debug", true), ("loud", false), ("lodge=loud", false)]
    {
        assert_eq!(resolve(&[(Origin::Flag, source(&[("log_level", text)]))]).is_ok(), sound, "{text}");
    }
}

/// Names of flags, variables and keys are unique; otherwise one of two settings could not be set.
#[test]
fn names_are_unique_everywhere() {
    let names: Vec<_> = described().map(|(name, ..)| name).collect();
    for spell in [flag_name, env_name] {
        let mut spelt: Vec<_> = names.iter().map(|name| spell(name)).collect();
        spelt.sort();
        spelt.dedup();
        assert_eq!(spelt.len(), names.len());
    }
}

proptest! {
    /// Any text for any key gives a value or a problem that names the key, and never a panic.
    #[test]
    fn any_text_for_any_key(index in 0..64usize, text in "\\PC{0,12}|[0-9]{1,25}(ms|s|h|KiB|GiB|MB)?") {
        let names: Vec<_> = described().map(|(name, ..)| name).collect();
        let name = &names[index % names.len()];
        match resolve(&[(Origin::File, source(&[(name, &text)]))]) {
            Ok(resolved) => prop_assert!(resolved.values.iter().any(|value| value == &(name.clone(), text.clone(), Origin::File))),
            Err(problems) => prop_assert!(problems.iter().all(|problem| problem.contains('.') || problem.contains(name.as_str()))),
        }
    }

    #[test]
    fn any_file(text in "\\PC{0,80}") {
        let _ = read_file(&text).map(|source| resolve(&[(Origin::File, source)]));
    }
}

/// Networks have the same canonical form as addresses of clients.
#[test]
fn networks_have_one_form() {
    for (text, expected) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("::1", "::1/128"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
        ("::ffff:127.0.0.1", "127.0.0.1/32"),
        ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ] {
        let expected = expected.parse::<ipnet::IpNet>().unwrap();
        let found = key::network(text).unwrap();
        assert!(found == expected || found == ipnet::IpNet::from(expected.addr()), "{text}: {found}");
        let config = resolve(&[(Origin::Flag, source(&[("trusted_proxies", text)]))]).unwrap().config;
        assert_eq!(config.trusted_proxies, [found]);
    }
    for wrong in ["", "10.0.0/8", "10.0.0.0/33", "::ffff:10.0.0.0/90", "localhost"] {
        assert!(key::network(wrong).is_err(), "{wrong}");
    }
    for (text, whole) in
        [("10.0.0.5/8", "10.0.0.0/8"), ("2001:db8::7/32", "2001:db8::/32"), ("::ffff:10.0.0.5/104", "10.0.0.0/8")]
    {
        let problem = key::network(text).unwrap_err();
        assert!(
            problem.starts_with(&format!("`{text}` is a part of the network {whole}; write that, or ")),
            "{problem}"
        );
    }
}

#[test]
fn a_size_without_a_unit() {
    let size = |text: &str, range| key::size(text, range).unwrap_err();
    assert_eq!(size("128", 64 << 10..=4 << 30), "`128` is 128 bytes; did you mean 128MiB?");
    assert_eq!(size("8", 1 << 10..=64 << 10), "`8` is 8 bytes; did you mean 8KiB?");
    assert!(size("128B", 64 << 10..=4 << 30).starts_with("must be between"));
    assert!(size("9999999999", 0..=4 << 30).starts_with("must be between"), "too large with any unit");
    assert_eq!(key::size("1048576", 64 << 10..=4 << 30), Ok(1 << 20));
}

/// Addresses may be written as in other servers.
#[test]
fn addresses_of_listeners() {
    let listen = |text: &str| {
        let resolved = resolve(&[(Origin::Flag, source(&[("listen", text)]))]);
        resolved.map(|resolved| resolved.config.listen.to_string()).map_err(|problems| problems.join("\n"))
    };
    for (text, address) in [
        (":8081", "0.0.0.0:8081"),
        ("localhost:8081", "127.0.0.1:8081"),
        ("[::1]:1", "[::1]:1"),
        ("10.0.0.7:0", "10.0.0.7:0"),
    ] {
        assert_eq!(listen(text).unwrap(), address, "{text}");
    }
    let problem = listen("8081").unwrap_err();
    let wanted = "--listen: `8081` is not an address; write 127.0.0.1:8081 for this machine, or 0.0.0.0:8081 for every interface";
    assert_eq!(problem, wanted);
    assert!(listen("example.org:80").unwrap_err().contains("write it like 127.0.0.1:8080"));
    assert!(listen(":x").is_err() && listen("localhost:").is_err() && listen("70000").is_err());
}

#[test]
fn a_switch_may_be_a_boolean() {
    let file =
        |text: &str| resolve(&[(Origin::File, read_file(text).unwrap())]).map(|resolved| resolved.config.log_requests);
    assert_eq!([file("log_requests = true"), file("log_requests = 'on'")], [Ok(true), Ok(true)]);
    assert_eq!([file("log_requests = false"), file("log_requests = 'off'")], [Ok(false), Ok(false)]);
    assert!(file("log_requests = 'yes'").unwrap_err()[0].contains("`yes` is not one of `off`, `on`"));
}

/// A key after a section belongs to it in TOML. The message says where it belongs.
#[test]
fn keys_in_the_wrong_section() {
    for (text, wanted) in [
        (
            "[limits]\nlisten = ':8080'",
            "lodge.toml: limits.listen: unknown key; `listen` stands above the first [section]",
        ),
        ("[listener]\nwall = '1s'", "lodge.toml: listener.wall: unknown key; did you mean `limits.wall`?"),
        ("idle = '1s'", "lodge.toml: idle: unknown key; did you mean `listener.idle`?"),
        ("[limits]\nlog_requets = true", "lodge.toml: limits.log_requets: unknown key"),
    ] {
        let problems = resolve(&[(Origin::File, read_file(text).unwrap())]).unwrap_err();
        assert!(problems[0].starts_with(wanted), "{problems:?}");
    }
}
