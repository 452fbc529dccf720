//! Results of SQL of which a guest reads the rows from a stream.

use wasmtime::component::{Accessor, FutureReader, Lift, Lower, StreamProducer, StreamReader};

use super::Ctx;
use super::handles::made;

/// The columns of a result, its rows, and how they end.
pub(super) type StreamedResult<C, R, E> = (Vec<C>, StreamReader<R>, FutureReader<Result<(), E>>);

/// Returns a result whose rows are all there, so that they end well; `None` if the guest has too many streams.
pub(super) fn streamed<C, R, E>(
    accessor: &Accessor<Ctx>,
    columns: Vec<C>,
    rows: impl StreamProducer<Ctx, Item = R>,
) -> wasmtime::Result<Option<StreamedResult<C, R, E>>>
where
    R: Lower + Lift + Send + Sync + 'static,
    E: Lower + Lift + Send + Sync + 'static,
{
    accessor.with(|mut access| {
        let Some(mut rows) = made(StreamReader::new(&mut access, rows))? else { return Ok(None) };
        match made(FutureReader::new(&mut access, async { Ok::<_, wasmtime::Error>(Ok(())) }))? {
            Some(end) => Ok(Some((columns, rows, end))),
            None => rows.close(&mut access).map(|()| None),
        }
    })
}
