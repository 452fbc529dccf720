//! A value of each type of the API with a value in every field.

use lodge::admin::contract::{
    CacheCounts, CertificateStatus, ClusterCall, ClusterMember, ClusterStatus, CodePart, DeadContent, DeadEntry,
    FailedRequest, HostStatus, Judgement, LastRefusal, Line, MessageCounts, PolicyStatus, RemoteCall, ReplicaStatus,
    ResponseMismatch, RollbackMargins, ScheduleStatus, ScheduledCall, ServiceActivity, ServiceInfo, SourceStatus,
    StoreDetails, StoreStatus, StoredCounts, StoredEntry, UpstreamCertificate, UpstreamStatus, VersionShare,
    VersionStatus,
};
use lodge_base::telemetry::logs::tail::LineKind;
use serde_json::json;

pub(super) fn text(text: &str) -> String {
    text.to_owned()
}

fn time() -> String {
    text("2026-11-21T10:00:00.123Z")
}

pub(super) fn service_info() -> ServiceInfo {
    let rollback = Some(RollbackMargins { errors: 1.0, p99: 1.5, minimum: 100 });
    ServiceInfo {
        name: text("users@2"),
        digest: text("ab"),
        version: text("cd"),
        bytes: 1,
        routes: vec![text("/users")],
        host: text("2.users.localhost"),
        share: Some(VersionShare { percent: 10.0, rules: vec![text("header:a=b")], mirror: 5.0, rollback }),
        sticky: Some(text("cookie:sid")),
        sections: [(text("calls"), json!(["*"]))].into(),
        parts: vec![CodePart { file: text("middleware/gate.wasm"), digest: text("ef") }],
        unknown_calls: vec![text("orders")],
        remote_calls: vec![RemoteCall { name: text("users"), state: text("on host b (http://a)") }],
        login_fails: Some(text("no response")),
        login_refusal: service_activity().last_refusal,
        upstream: Some(upstream()),
        imports: vec![text("wasi:io/poll")],
        exports: vec![text("wasi:http/handler")],
        absent_imports: vec!["fermyon:spin/redis@2.0.0".into()],
    }
}

pub(super) fn upstream() -> UpstreamStatus {
    let sources = vec![SourceStatus { source: text("far.list"), fails: Some(text("No such file")) }];
    let certificate = Some(UpstreamCertificate {
        subject: text("CN=orders"),
        names: vec![text("spiffe://example.org/orders")],
        expires: text("2027-01-01T00:00:00Z"),
    });
    let tls_fails = Some(text("upstream.tls.key: k cannot be read"));
    UpstreamStatus { settings: [("connect".into(), text("1s"))].into(), sources, certificate, tls_fails }
}

pub(super) fn replica() -> ReplicaStatus {
    ReplicaStatus {
        url: text("http://a"),
        weight: 1,
        state: "ejected".into(),
        why: Some(text("it responded with 503")),
        until: Some(time()),
        in_flight: 1,
        connections: 1,
    }
}

pub(super) fn service_activity() -> ServiceActivity {
    ServiceActivity {
        state: "serving".into(),
        since: Some(time()),
        loaded: true,
        code: Some("baseline".into()),
        requests: 1,
        errors: 1,
        in_flight: 1,
        queued: 1,
        p50_ms: Some(0.5),
        p99_ms: Some(1.5),
        cpu_seconds: 0.1,
        memory_bytes: 1,
        bytes_in: 1,
        bytes_out: 1,
        cached: Some(CacheCounts { entries: 1, bytes: 1, hits: 1, misses: 1 }),
        stored: Some(StoredCounts { keys: 1, bytes: 2, most_keys: 3, most_bytes: 4 }),
        messages: Some(MessageCounts { waiting: 1, in_flight: 2, dead: 3, bytes: 4, oldest_ms: 5 }),
        last_refusal: Some(LastRefusal {
            at: time(),
            reason: "auth-invalid".into(),
            detail: Some(text("expired-key")),
        }),
        problems: vec![text("users.toml: validate.body: user.json: it is empty")],
        withdrawn: Some(text("10 % of its requests failed")),
        judged: Some(Judgement { requests: 1, comparisons: 1 }),
        versions: vec![VersionStatus { name: text("users@2"), percent: 1.0, state: "down".into() }],
        replicas: Some(vec![replica()]),
    }
}

pub(super) fn schedule() -> ScheduleStatus {
    ScheduleStatus {
        cron: text("0 3 * * *"),
        path: text("/clean"),
        next: Some(text("2026-11-22T03:00:00Z")),
        last: Some(ScheduledCall { at: time(), outcome: "failed".into(), status: Some(404) }),
        failed: 1,
    }
}

pub(super) fn policy() -> PolicyStatus {
    PolicyStatus {
        policy: "rate".into(),
        route: Some(text("/login")),
        settings: text("5/m"),
        state: Some(text("3 in use")),
    }
}

pub(super) fn mismatch() -> ResponseMismatch {
    ResponseMismatch {
        at: time(),
        request_id: text("9f"),
        operation: text("GET /users"),
        why: text("the body is not JSON"),
    }
}

pub(super) fn failed_request() -> FailedRequest {
    FailedRequest {
        at: time(),
        request_id: text("9f"),
        status: Some(502),
        reason: "trapped".into(),
        detail: Some(text("wasm `unreachable`")),
        part: Some(text("middleware/gate.wasm")),
        backtrace: vec![text("0: users::run")],
        stderr: vec![text("Traceback:")],
    }
}

pub(super) fn host_status() -> HostStatus {
    HostStatus {
        version: "0.1.0".into(),
        wasmtime: "48.0.0".into(),
        pid: 1,
        started: time(),
        uptime_seconds: 1.5,
        listen: Some(text("127.0.0.1:8080")),
        directory: text("/guests"),
        directory_id: text("1:2"),
        generation: 1,
        ready: true,
        stopping: true,
        connections: 1,
        log_level: text("info"),
        memory_bytes: 1,
        cpu_seconds: 1.5,
        sandbox_reset: text("by the kernel"),
        problems: vec![text("trust.keys: a.pem: it is empty")],
        certificates: vec![CertificateStatus {
            names: vec![text("example.org")],
            expires: Some(time()),
            renewal: time(),
            problem: Some(text("no response")),
        }],
    }
}

pub(super) fn cluster() -> ClusterStatus {
    let member = ClusterMember {
        name: text("a"),
        this: true,
        address: Some(text("https://10.0.0.3:8443")),
        zone: Some(text("eu-1a")),
        version: text("0.1.0"),
        in_flight: 1,
        slots: 2,
        known_seconds: 1.5,
        renewed_seconds: Some(0.5),
        services: [(text("users"), text("0123456789ab"))].into(),
        more: 1,
    };
    ClusterStatus {
        cluster: Some(text("shop")),
        host: text("a"),
        state: "name-taken".into(),
        problem: Some(text("another host is a")),
        leader: Some(text("b")),
        renewed_seconds: Some(0.5),
        read_seconds: Some(0.5),
        members: vec![member],
        calls: vec![ClusterCall {
            service: text("users"),
            address: text("https://10.0.0.4:8443"),
            host: Some(text("b")),
            sent: 3,
            retried: 1,
            failed: 1,
            mean_seconds: 0.25,
        }],
        ignored: 1,
        truncated: true,
    }
}

pub(super) fn line() -> Line {
    Line {
        seq: 1,
        at: time(),
        level: "INFO".into(),
        kind: LineKind::Guest,
        service: Some(text("users")),
        version: Some(text("0123456789ab")),
        request_id: Some(text("9f")),
        stream: Some(text("stderr")),
        message: text("stock is low"),
        fields: [(text("ms"), json!(1.5))].into_iter().collect(),
    }
}

pub(super) fn dead_message() -> DeadContent {
    DeadContent {
        entry: DeadEntry {
            id: text("7"),
            message_id: text("12"),
            subject: text("a.dead"),
            origin: Some(text("a.b")),
            died: Some(time()),
            deliveries: Some(10),
            bytes: 9,
            error: Some(text("status 500")),
        },
        reply_to: Some(text("a.reply")),
        headers: vec![text("content-type: text/plain")],
        body: text("eA=="),
    }
}

pub(super) fn stored_entry() -> StoredEntry {
    StoredEntry { bucket: text("b"), key: text("k"), value: text("eA=="), version: Some(1), expires: Some(time()) }
}

pub(super) fn store_details() -> StoreDetails {
    let service = text("users");
    let status = StoreStatus { service, keys: 1, bytes: 2, most_keys: Some(3), most_bytes: Some(4) };
    StoreDetails { status, buckets: vec![text("default")], next: Some(text("default")) }
}
