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
    if !sandbox.denials.first(kind) {
        return;
    }
    let (service, version, request_id) = (&*sandbox.service.name, &*sandbox.version, &*sandbox.request_id());
    let instead = "send HTTP requests, which `http = [\"http://HOST:PORT\"]`";
    macro_rules! denied {
        ($level:ident, $what:literal, $instead:expr) => {
            tracing::$level!(service, version, request_id, "denied {}; {} (logged once)", $what, $instead)
        };
    }
    match kind {
        Denial::Tcp => denied!(
            warn,
            "a TCP socket, which no manifest can grant",
            format_args!("{instead} in {service}.toml, above its first [section], allows")
        ),
        Denial::Udp => denied!(
            warn,
            "a UDP socket, which no manifest can grant",
            format_args!("{instead} in {service}.toml, above its first [section], allows")
        ),
        Denial::Names => denied!(
            warn,
            "the resolution of a name, which no manifest can grant",
            format_args!("{instead} in {service}.toml, above its first [section], allows: Lodge resolves their names")
        ),
        Denial::KeyValue => denied!(
            warn,
            "a key-value store, which the manifest does not grant",
            format_args!("add `keyvalue = true` to {service}.toml, above its first [section]")
        ),
        Denial::Bucket => denied!(
            warn,
            "a bucket that `keyvalue.buckets` does not list",
            format_args!("add its name to `buckets` in [keyvalue] of {service}.toml, or remove `buckets` to allow any")
        ),
        Denial::Shared => denied!(
            warn,
            "a bucket of another service, which that does not share, or is not served",
            format_args!(
                "add `shared.BUCKET = {{ {service} = \"read\" }}` to [keyvalue] in the manifest of that service"
            )
        ),
        Denial::Lock => denied!(
            warn,
            "a lock, which the manifest does not grant",
            format_args!("add `lock = true` to {service}.toml, above its first [section]")
        ),
        Denial::Sqlite => denied!(
            warn,
            "a SQL database, which the manifest does not grant",
            format_args!("add `sqlite = true` to {service}.toml, above its first [section]")
        ),
        Denial::Database => denied!(
            warn,
            "a SQL database that `sqlite.databases` does not list",
            format_args!("add its name to `databases` in [sqlite] of {service}.toml")
        ),
        Denial::Blobs => denied!(
            warn,
            "a container of objects, which the manifest does not grant",
            format_args!("add `blobstore = true` to {service}.toml, above its first [section]")
        ),
        Denial::Publish => denied!(
            warn,
            "a message to a subject that the manifest does not list",
            format_args!("add the subject to `publish` in {service}.toml, above its first [section]")
        ),
        Denial::Metrics => denied!(
            info,
            "metrics of the guest, which Lodge does not collect",
            "it counts and measures requests and operations itself, for /metrics"
        ),
        // Some runtimes look for directories when they start, whether they need a file or not.
        Denial::Files => denied!(
            info,
            "files: the guest looked for directories, and there are none",
            format_args!(
                "if the guest needs a file, embed it in the component at build time, serve it over HTTP, or add its \
                 directory to [volumes] in {service}.toml"
            )
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
