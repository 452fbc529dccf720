//! Connections by a builder, which `spin:postgres` has from `4.1.0` on.

use lodge_base::tls::pem;
use wasmtime::component::{LinkerInstance, Resource, ResourceType};

use super::super::denied::deny;
use super::super::logged_denials::Denial;
use super::super::{Ctx, GuestCall};
use super::error::{CallFailure, Error, QueryError};
use super::{OpenPostgres, open};

/// The most bytes of an address. The URL of a database is shorter.
const ADDRESS: usize = 4 << 10;

/// The most bytes of certificates that a guest wants servers to be verified by.
const CERTIFICATES: usize = 64 << 10;

/// A connection that a guest may open.
pub(super) struct ConnectionBuilder {
    address: String,
}

pub(super) fn link(postgres: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()> {
    postgres.resource("connection-builder", ResourceType::host::<ConnectionBuilder>(), |mut caller, rep| {
        caller.data_mut().table.delete(Resource::<ConnectionBuilder>::new_own(rep))?;
        Ok(())
    })?;
    postgres.func_wrap("[constructor]connection-builder", |mut caller: GuestCall<'_>, (mut address,): (String,)| {
        // No database has such an address, so that `build` denies it.
        if address.len() > ADDRESS {
            address = String::new();
        }
        // It has no result that could tell of too many handles.
        Ok((caller.data_mut().table.push(ConnectionBuilder { address })?,))
    })?;
    postgres.func_wrap(
        "[method]connection-builder.set-ca-root",
        |caller: GuestCall<'_>, (builder, certificates): (Resource<ConnectionBuilder>, String)| {
            caller.data().table.get(&builder)?;
            Ok((check_authorities(caller.data(), &certificates).map_err(Error::<QueryError>::from),))
        },
    )?;
    postgres.func_wrap(
        "[method]connection-builder.build",
        |mut caller: GuestCall<'_>, (builder,): (Resource<ConnectionBuilder>,)| {
            Ok((build(caller.data_mut(), &builder)?.map_err(Error::<QueryError>::from),))
        },
    )
}

/// Opens the connection.
pub(super) fn build(
    ctx: &mut Ctx,
    builder: &Resource<ConnectionBuilder>,
) -> wasmtime::Result<Result<Resource<OpenPostgres>, CallFailure>> {
    let address = ctx.table.get(builder)?.address.clone();
    open(ctx, &address)
}

/// Checks whether the manifest names these authorities. The password of the URL is the operator's, and so is whom to send it to.
fn check_authorities(ctx: &Ctx, certificates: &str) -> Result<(), CallFailure> {
    let Some(of_request) = &ctx.postgres else {
        deny(&ctx.sandbox, Denial::Postgres);
        return Err(CallFailure::Denied);
    };
    let refused = |why: &str| Err(CallFailure::Refused(why.to_owned()));
    if certificates.len() > CERTIFICATES {
        return refused("the certificates have more than 64 KiB");
    }
    let known = &of_request.granted().authorities;
    match pem::chain(certificates.as_bytes()) {
        Ok(chain) if chain.iter().all(|certificate| known.contains(certificate)) => Ok(()),
        Ok(_) => refused(
            "servers are verified by the authorities that the manifest of the service names: write the certificate into a \
             file, and `ca = \"FILE\"` in [postgres]",
        ),
        Err(why) => refused(&format!("the certificate: {why}")),
    }
}
