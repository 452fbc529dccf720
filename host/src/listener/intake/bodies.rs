//! Request and response bodies that report to the [`Account`] which memory is free again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::Error;

use super::account::{Account, Charge};
use lodge_traffic::proxy::frames::detached;

/// The body of a request.
pub struct Upload<B: Body<Data = Bytes> + Unpin> {
    body: B,
    /// `None` if the body is empty.
    account: Option<Arc<Account>>,
    /// The most trailer fields.
    fields: usize,
}

/// The body of a response, with the memory charged for its request.
pub struct Charged<B> {
    body: B,
    _charge: Charge,
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// Returns the body of a request that was charged to `account`, with at most `fields` trailers.
    pub fn new(body: B, account: &Arc<Account>, fields: usize) -> Self {
        let account = (!body.is_end_stream()).then(|| Arc::clone(account));
        Self { body, account, fields }
    }

    fn end(&mut self) {
        if let Some(account) = self.account.take() {
            account.uploaded(true);
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<Error>> + Unpin> Body for Upload<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let is_last = this.body.is_end_stream();
        let Some(account) = &this.account else { return polled.map_err(Into::into) };
        match &polled {
            Poll::Pending => account.took_all(),
            Poll::Ready(Some(Ok(frame))) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => {
                    account.took(data.len());
                    // The end of a body with a known length is not polled.
                    if is_last {
                        this.end();
                    }
                }
                (_, Some(trailers)) => {
                    let many = trailers.len() > this.fields;
                    this.end();
                    if many {
                        return Poll::Ready(Some(Err(Error::HttpRequestTrailerSectionSize(None))));
                    }
                }
                _ => {}
            },
            Poll::Ready(_) => this.end(),
        }
        // What the consumer keeps of it is no longer charged.
        polled.map(|frame| frame.map(|frame| frame.map(|frame| detached(frame, is_last)).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Drop for Upload<B> {
    /// Discards the bytes that have arrived. h2 discards those that still arrive.
    fn drop(&mut self) {
        let Some(account) = self.account.take() else { return };
        if !account.is_h2() {
            return account.uploaded(true);
        }
        let mut nobody = Context::from_waker(Waker::noop());
        let ended = loop {
            match Pin::new(&mut self.body).poll_frame(&mut nobody) {
                Poll::Ready(Some(Ok(frame))) => account.took(frame.data_ref().map_or(0, Bytes::len)),
                Poll::Ready(_) => break true,
                Poll::Pending => break self.body.is_end_stream(),
            }
        };
        account.uploaded(ended);
    }
}

impl<B> Charged<B> {
    /// Keeps `charge` until `body` is dropped.
    pub fn new(body: B, charge: Charge) -> Self {
        Self { body, _charge: charge }
    }
}

impl<B: Body + Unpin> Body for Charged<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Buffers;
    use super::*;

    /// A body of small pieces of one buffer.
    struct Pieces(Bytes);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            Poll::Ready((!self.0.is_empty()).then(|| Ok(Frame::data(self.0.split_to(2)))))
        }
    }

    /// What a service keeps of a body is no part of the buffers of its connection, whose memory is not charged any more.
    #[test]
    fn small_pieces_are_copied() {
        let account = Account::new(&Buffers::new(8 << 20), 1);
        let mut upload = Upload::new(Pieces(Bytes::from(vec![1; 9_000])), &account, 1);
        for _ in 0..3 {
            let polled = Pin::new(&mut upload).poll_frame(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(Some(Ok(frame))) = polled else { panic!("no frame") };
            assert_eq!(frame.into_data().unwrap().try_into_mut().unwrap().capacity(), 2);
        }
    }
}
