//! Bounds of the method and authority of outgoing requests. wasmtime bounds header fields and `http` bounds paths (64
//! KiB). Without these bounds a method or an authority could be as long as the guest's memory, and the host would hold
//! a copy for every request that the guest holds.

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types::{self, HostOutgoingRequest as Host02};
use wasmtime_wasi_http::p2::types::HostOutgoingRequest;
use wasmtime_wasi_http::p3::bindings::http::types::{self as types_03, HostRequest as Host03};
use wasmtime_wasi_http::{WasiHttpView, p3};

use super::TYPES;
use crate::capabilities::Ctx;

/// The newest name, as for [`TYPES`].
const TYPES_03: &str = "wasi:http/types@0.3.0";

/// The most bytes of a method. The longest registered one has 17.
const METHOD: usize = 64;

/// The most bytes of an authority. A host name has at most 253, a port 5.
const AUTHORITY: usize = 1 << 10;

/// Replaces these functions of 0.2 in the linker.
pub(super) fn link_02(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    type MethodArgs = (Resource<HostOutgoingRequest>, types::Method);
    type AuthorityArgs = (Resource<HostOutgoingRequest>, Option<String>);
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.func_wrap("[method]outgoing-request.set-method", |mut store, (request, method): MethodArgs| {
        if matches!(&method, types::Method::Other(word) if word.len() > METHOD) {
            return Ok((Err(()),));
        }
        Ok((Host02::set_method(&mut store.data_mut().http(), request, method)?,))
    })?;
    types.func_wrap("[method]outgoing-request.set-authority", |mut store, (request, authority): AuthorityArgs| {
        if is_too_long(authority.as_deref()) {
            return Ok((Err(()),));
        }
        Ok((Host02::set_authority(&mut store.data_mut().http(), request, authority)?,))
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Replaces these functions of 0.3 in the linker.
pub(super) fn link_03(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    type MethodArgs = (Resource<p3::Request>, types_03::Method);
    type AuthorityArgs = (Resource<p3::Request>, Option<String>);
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES_03)?;
    types.func_wrap("[method]request.set-method", |mut store, (request, method): MethodArgs| {
        if matches!(&method, types_03::Method::Other(word) if word.len() > METHOD) {
            return Ok((Err(()),));
        }
        Ok((Host03::set_method(&mut store.data_mut().http(), request, method)?,))
    })?;
    types.func_wrap("[method]request.set-authority", |mut store, (request, authority): AuthorityArgs| {
        if is_too_long(authority.as_deref()) {
            return Ok((Err(()),));
        }
        Ok((Host03::set_authority(&mut store.data_mut().http(), request, authority)?,))
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

fn is_too_long(authority: Option<&str>) -> bool {
    authority.is_some_and(|authority| authority.len() > AUTHORITY)
}
