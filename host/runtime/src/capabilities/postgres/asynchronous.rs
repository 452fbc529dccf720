//! The async functions, which `spin:postgres` has from `4.2.0` on.
//!
//! The rows of a result are in memory before its first one is read, so its bounds are those of the other functions, and a statement that
//! fails has no rows. What a guest has not read is bounded for each connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lodge_state::postgres::{MAX_TRANSFER, PostgresColumn, PostgresRows, PostgresSession};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Accessor, Destination, Lift, LinkerInstance, Lower, Resource, StreamProducer, StreamResult, VecBuffer,
};

use super::super::Ctx;
use super::super::handles::TOO_MANY_HANDLES;
use super::super::streamed::streamed;
use super::call::{PostgresCall, room, run};
use super::error::{CallFailure, Error, QueryError};
use super::values::v4::{DbValue, ParameterValue, ResultColumn, row};
use super::{OpenPostgres, builder, open};

/// The rows that are passed on at a time.
const BATCH: usize = 32;

pub(super) fn link(postgres: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()> {
    postgres.func_wrap_concurrent(
        "[static]connection.open-async",
        |accessor: &Accessor<Ctx>, (address,): (String,)| {
            let opened = accessor.with(|mut access| open(access.get(), &address));
            Box::pin(async move { Ok((opened?.map_err(Error::<QueryError>::from),)) })
        },
    )?;
    postgres.func_wrap_concurrent(
        "[method]connection-builder.build-async",
        |accessor: &Accessor<Ctx>, (builder,): (Resource<builder::ConnectionBuilder>,)| {
            let opened = accessor.with(|mut access| builder::build(access.get(), &builder));
            Box::pin(async move { Ok((opened?.map_err(Error::<QueryError>::from),)) })
        },
    )?;
    postgres.func_wrap_concurrent(
        "[method]connection.execute-async",
        |accessor: &Accessor<Ctx>, (handle, text, parameters): (_, String, Vec<ParameterValue>)| {
            let call = accessor.with(|mut access| PostgresCall::begin(access.get(), &handle, text, parameters));
            Box::pin(
                async move { Ok((run(call?).await.map(|rows| rows.affected).map_err(Error::<QueryError>::from),)) },
            )
        },
    )?;
    postgres.func_wrap_concurrent(
        "[method]connection.query-async",
        |accessor: &Accessor<Ctx>,
         (handle, text, parameters): (Resource<OpenPostgres>, String, Vec<ParameterValue>)| {
            let call = accessor.with(|mut access| PostgresCall::begin(access.get(), &handle, text, parameters));
            Box::pin(async move {
                let (columns, rows) = match result(call?).await {
                    Ok(result) => result,
                    Err(failure) => return Ok((Err(Error::<QueryError>::from(failure)),)),
                };
                let columns: Vec<_> = columns.into_iter().map(ResultColumn::from).collect();
                let rows = streamed::<_, _, Error<QueryError>>(accessor, columns, rows)?;
                Ok((rows.ok_or_else(|| CallFailure::Refused(TOO_MANY_HANDLES.into()).into()),))
            })
        },
    )
}

/// Runs a statement. Returns the columns of its result, and the rows.
async fn result(
    call: Result<PostgresCall, CallFailure>,
) -> Result<(Vec<PostgresColumn>, RowProducer<impl Iterator<Item = Vec<DbValue>>>), CallFailure> {
    let (result, room, connection) = reading(call?).await?;
    Ok((result.columns, RowProducer::new(result.rows.into_iter().map(row), room, connection)))
}

/// Runs a statement. Returns its result, with the room for it until the guest has read it, and its connection.
pub(super) async fn reading(
    call: PostgresCall,
) -> Result<(PostgresRows, OwnedSemaphorePermit, Arc<dyn PostgresSession>), CallFailure> {
    let (connection, unread) = call.reading();
    let result = run(Ok(call)).await?;
    let Some(room) = room(&unread, result.size()) else {
        let why =
            format!("results of the connection that are not read have more than {MAX_TRANSFER} bytes: read them first");
        return Err(CallFailure::Refused(why));
    };
    Ok((result, room, connection))
}

/// The rows of a result that a guest reads.
pub(super) struct RowProducer<I> {
    rows: I,
    _room: OwnedSemaphorePermit,
    /// One of those that the request may have, also when the guest has dropped its handle.
    _connection: Arc<dyn PostgresSession>,
}

impl<I> RowProducer<I> {
    pub(super) fn new(rows: I, room: OwnedSemaphorePermit, connection: Arc<dyn PostgresSession>) -> Self {
        Self { rows, _room: room, _connection: connection }
    }
}

impl<V, I> StreamProducer<Ctx> for RowProducer<I>
where
    V: Lower + Lift + Send + Sync + 'static,
    I: Iterator<Item = Vec<V>> + Unpin + Send + 'static,
{
    type Item = Vec<V>;
    type Buffer = VecBuffer<Vec<V>>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: StoreContextMut<'a, Ctx>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        _: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let rows: Vec<_> = self.rows.by_ref().take(BATCH).collect();
        if rows.is_empty() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        destination.set_buffer(rows.into());
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
