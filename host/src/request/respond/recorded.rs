//! A response body as the cache uses it.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use http_body::Body as _;

use super::{Body, Source};
use lodge_traffic::cache;
use lodge_traffic::cache::recorder::Recorder;

impl cache::CacheBody for Body {
    fn stored(bytes: Option<Bytes>) -> Self {
        Self::text(bytes)
    }

    fn recorded(mut self, mut recorder: Recorder) -> Self {
        if let Source::Whole(frames) = &self.source {
            // Stored at once: requests that wait for this response must not depend on the speed of this client.
            frames.iter().for_each(|frame| recorder.frame(frame));
            recorder.end();
        } else if self.source.is_end() {
            recorder.end();
        } else {
            self.recorder = Some(recorder);
        }
        self
    }

    async fn drain(mut self) {
        while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {}
    }
}
