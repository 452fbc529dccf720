//! Sockets and name resolution. Language runtimes import them, so they are linked, but no guest gets any. The first denial of each
//! kind is logged once per version of a service, with an alternative.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily, Network};
use wasmtime_wasi::p2::bindings::sockets::{ip_name_lookup, tcp, udp};
use wasmtime_wasi::p3::bindings::sockets::{ip_name_lookup as names_03, types as sockets_03};

use super::Ctx;
use super::logged_denials::Denial;
use super::sandbox::Sandbox;

/// Logs a denial, unless the kind was logged before.
pub(super) fn deny(sandbox: &Sandbox, kind: Denial) {
    if !sandbox.version.denials.first(kind) {
        return;
    }
    let (service, version, request_id) = (&*sandbox.service.name, &*sandbox.version.name, &*sandbox.request_id());
    let (what, instead) = explain(kind, service);
    match kind {
        // Their guests work without, and many try at every start.
        Denial::Metrics | Denial::Files => {
            tracing::info!(service, version, request_id, "denied {what}; {instead} (logged once)");
        }
        _ => tracing::warn!(service, version, request_id, "denied {what}; {instead} (logged once)"),
    }
}

/// Returns what was denied to the service, and what to do instead.
fn explain(kind: Denial, service: &str) -> (&'static str, String) {
    let key = |key: &str| format!("add {key} to {service}.toml, above its first [section]");
    let http = format!(
        "send HTTP requests, which `http = [\"http://HOST:PORT\"]` in {service}.toml, above its first [section], allows"
    );
    match kind {
        Denial::Tcp => ("a TCP socket, which no manifest can grant", http),
        Denial::Udp => ("a UDP socket, which no manifest can grant", http),
        Denial::Names => {
            ("the resolution of a name, which no manifest can grant", format!("{http}: Lodge resolves their names"))
        }
        Denial::KeyValue => ("a key-value store, which the manifest does not grant", key("`keyvalue = true`")),
        Denial::Bucket => (
            "a bucket that `keyvalue.buckets` does not list",
            format!("add its name to `buckets` in [keyvalue] of {service}.toml, or remove `buckets` to allow any"),
        ),
        Denial::Shared => (
            "a bucket of another service, which that does not share, or is not served",
            format!("add `shared.BUCKET = {{ {service} = \"read\" }}` to [keyvalue] in the manifest of that service"),
        ),
        Denial::Lock => ("a lock, which the manifest does not grant", key("`lock = true`")),
        Denial::Sqlite => ("a SQL database, which the manifest does not grant", key("`sqlite = true`")),
        Denial::Database => (
            "a SQL database that `sqlite.databases` does not list",
            format!("add its name to `databases` in [sqlite] of {service}.toml"),
        ),
        Denial::Postgres => (
            "a database of a PostgreSQL server, which the manifest does not grant",
            format!("write its URL as a secret of [config], and `[postgres] databases = [\"KEY\"]`, in {service}.toml"),
        ),
        Denial::PostgresDatabase => (
            "a database that is neither a key in `postgres.databases` nor its value",
            format!("add the key of [config] with its URL to `databases` in [postgres] of {service}.toml"),
        ),
        Denial::Blobs => ("a container of objects, which the manifest does not grant", key("`blobstore = true`")),
        Denial::Publish => (
            "a message to a subject that the manifest does not list",
            format!("add the subject to `publish` in {service}.toml, above its first [section]"),
        ),
        Denial::Metrics => (
            "metrics of the guest, which Lodge does not collect",
            "it counts and measures requests and operations itself, for /metrics".to_owned(),
        ),
        // Some runtimes look for directories when they start, whether they need a file or not.
        Denial::Files => (
            "files: the guest looked for directories, and there are none",
            format!(
                "if the guest needs a file, embed it in the component at build time, serve it over HTTP, or add its \
                 directory to [volumes] in {service}.toml"
            ),
        ),
    }
}

/// Replaces these functions of WASI 0.2 in the linker, by their newest names, which also match older imports.
pub(super) fn link_02(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    type Called<'a> = StoreContextMut<'a, Ctx>;
    linker.allow_shadowing(true);
    linker.instance("wasi:sockets/tcp-create-socket@0.2.12")?.func_wrap(
        "create-tcp-socket",
        |store: Called<'_>, (_,): (IpAddressFamily,)| {
            deny(&store.data().sandbox, Denial::Tcp);
            Ok((Err::<Resource<tcp::TcpSocket>, _>(ErrorCode::AccessDenied),))
        },
    )?;
    linker.instance("wasi:sockets/udp-create-socket@0.2.12")?.func_wrap(
        "create-udp-socket",
        |store: Called<'_>, (_,): (IpAddressFamily,)| {
            deny(&store.data().sandbox, Denial::Udp);
            Ok((Err::<Resource<udp::UdpSocket>, _>(ErrorCode::AccessDenied),))
        },
    )?;
    linker.instance("wasi:sockets/ip-name-lookup@0.2.12")?.func_wrap(
        "resolve-addresses",
        |store: Called<'_>, (_, _): (Resource<Network>, String)| {
            deny(&store.data().sandbox, Denial::Names);
            Ok((Err::<Resource<ip_name_lookup::ResolveAddressStream>, _>(ErrorCode::AccessDenied),))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Replaces these functions of WASI 0.3 in the linker.
pub(super) fn link_03(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    type Called<'a> = StoreContextMut<'a, Ctx>;
    type Family = sockets_03::IpAddressFamily;
    linker.allow_shadowing(true);
    let mut sockets = linker.instance("wasi:sockets/types@0.3.0")?;
    sockets.func_wrap("[static]tcp-socket.create", |store: Called<'_>, (_,): (Family,)| {
        deny(&store.data().sandbox, Denial::Tcp);
        Ok((Err::<Resource<sockets_03::TcpSocket>, _>(sockets_03::ErrorCode::AccessDenied),))
    })?;
    sockets.func_wrap("[static]udp-socket.create", |store: Called<'_>, (_,): (Family,)| {
        deny(&store.data().sandbox, Denial::Udp);
        Ok((Err::<Resource<sockets_03::UdpSocket>, _>(sockets_03::ErrorCode::AccessDenied),))
    })?;
    linker.instance("wasi:sockets/ip-name-lookup@0.3.0")?.func_wrap_concurrent(
        "resolve-addresses",
        |accessor, (_,): (String,)| {
            accessor.with(|mut store| deny(&store.data_mut().sandbox, Denial::Names));
            Box::pin(std::future::ready(Ok((Err::<Vec<sockets_03::IpAddress>, _>(names_03::ErrorCode::AccessDenied),))))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
