use super::*;
use lodge_base::cpu::scheduler::CpuScheduler;

/// A host whose services call none of each other.
struct NoCalls;

impl LocalCalls for NoCalls {
    fn call(
        self: Arc<Self>,
        _: Arc<Egress>,
        _: String,
        _: (Arc<Sandbox>, RequestContext),
        _: Request<WasiBody>,
        _: RequestOptions,
    ) -> SendFuture {
        unreachable!("no request is sent")
    }
}

fn egress(suffix: &str) -> Egress {
    let service = Arc::new(Service::new("me", CpuScheduler::new(1).share()));
    let limits = lodge_base::config::resolve(&[]).unwrap().config.limits;
    Egress::new(&service, &Grants::default(), &limits, Weak::<NoCalls>::new(), Arc::from(format!(".{suffix}")), None)
}

#[test]
fn one_label_before_the_suffix_is_a_service() {
    let internal = egress("internal");
    for (host, name) in [
        ("users.internal", Some("users")),
        ("Users.INTERNAL", Some("Users")),
        ("users.internal.", Some("users")),
        ("my-users.internal", Some("my-users")),
        ("a.users.internal", None),
        ("internal", None),
        (".internal", None),
        ("users.internal.example.com", None),
        ("usersinternal", None),
        ("users", None),
    ] {
        assert_eq!(internal.callee(host), name, "{host}");
    }
    assert_eq!(egress("svc.cluster.local").callee("users.svc.cluster.local"), Some("users"));
}

#[test]
fn destinations_of_urls() {
    let of = |url: &str| {
        let uri: Uri = url.parse().unwrap();
        TargetOrigin::of(&uri).map(|at| at.origin(at.host))
    };
    assert_eq!(of("https://API.example.com/x").unwrap(), "https://api.example.com");
    assert_eq!(of("http://api.example.com:80/").unwrap(), "http://api.example.com");
    assert_eq!(of("http://[fd00::1]:81/").unwrap(), "http://[fd00::1]:81");
    for wrong in ["https://user@api.example.com/", "http://a.test:99999/", "http://a.test:/"] {
        assert_eq!(of(wrong), None, "{wrong}");
    }
    assert_eq!(of("/only/a/path"), None);
}
