//! What JetStream responds.

use async_nats::Message;
use lodge_remote::LinkFailure;
use lodge_state::Error;
use serde::Deserialize;

/// A response of the interface of JetStream, without what is not used.
#[derive(Debug, Deserialize)]
pub(crate) struct JetStreamResponse {
    pub(crate) error: Option<JetStreamRefusal>,
    /// The sequence of a message that was stored.
    #[serde(default)]
    pub(crate) seq: u64,
    /// The time of the server.
    pub(crate) ts: Option<String>,
    pub(crate) state: Option<StreamState>,
    pub(crate) config: Option<StreamLimits>,
    /// Messages that a consumer has, or that wait for being delivered again.
    #[serde(default)]
    pub(crate) num_ack_pending: u64,
    #[serde(default)]
    pub(crate) total: usize,
    /// Names of streams.
    pub(crate) streams: Option<Vec<String>>,
    /// When a stream was created.
    pub(crate) created: Option<String>,
}

/// What a stream may contain.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct StreamLimits {
    #[serde(default)]
    pub(crate) max_msgs: i64,
    #[serde(default)]
    pub(crate) max_bytes: i64,
}

/// What a stream contains.
#[derive(Debug, Deserialize)]
pub(crate) struct StreamState {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) last_seq: u64,
    /// When the oldest message was stored.
    #[serde(default)]
    pub(crate) first_ts: String,
    #[serde(default)]
    pub(crate) subjects: std::collections::HashMap<String, u64>,
}

/// Why JetStream has refused a request.
#[derive(Debug, Deserialize)]
pub(crate) struct JetStreamRefusal {
    #[serde(default)]
    pub(crate) err_code: u16,
    #[serde(default)]
    pub(crate) description: String,
}

/// Codes of refusals, as `nats errors` lists them.
pub(crate) mod code {
    pub(crate) const NO_MESSAGE: u16 = 10037;
    pub(crate) const SEQUENCE_NOT_FOUND: u16 = 10043;
    pub(crate) const TOO_LARGE: u16 = 10054;
    pub(crate) const DELETE_FAILED: u16 = 10057;
    pub(crate) const NAME_IN_USE: u16 = 10058;
    pub(crate) const STREAM_NOT_FOUND: u16 = 10059;
    pub(crate) const WRONG_SEQUENCE: [u16; 3] = [10071, 10164, 10163];
    pub(crate) const STORE_FAILED: u16 = 10077;
    pub(crate) const STORAGE_FULL: [u16; 4] = [10002, 10023, 10047, 10028];
    pub(crate) const TOO_MANY_REQUESTS: u16 = 10167;
    pub(crate) const NOT_ENABLED: [u16; 2] = [10039, 10076];
}

impl JetStreamResponse {
    /// Reads a response.
    pub(crate) fn read(message: &Message) -> Result<JetStreamResponse, LinkFailure> {
        serde_json::from_slice(&message.payload).map_err(|_| crate::unexpected().into())
    }

    /// The code of its refusal; 0 if it is none.
    pub(crate) fn code(&self) -> u16 {
        self.error.as_ref().map_or(0, |refusal| refusal.err_code)
    }

    /// The response, if it is no refusal.
    pub(crate) fn accepted(self) -> Result<JetStreamResponse, LinkFailure> {
        match self.error {
            None => Ok(self),
            Some(refusal) => Err(refusal.into()),
        }
    }
}

impl From<JetStreamRefusal> for LinkFailure {
    fn from(refusal: JetStreamRefusal) -> LinkFailure {
        let number = refusal.err_code;
        let text = match number {
            _ if code::STORAGE_FULL.contains(&number) => {
                "the storage or an account limit of NATS is used up: raise it, or delete streams".to_owned()
            }
            _ if code::NOT_ENABLED.contains(&number) => {
                "JetStream is not enabled for this account: enable it".to_owned()
            }
            code::TOO_MANY_REQUESTS => "NATS has too many requests for this stream: retry later".to_owned(),
            code::STREAM_NOT_FOUND => "the stream of the service was deleted: it is created again".to_owned(),
            _ => format!("NATS has refused the operation (error {number}): see `nats errors lookup {number}`"),
        };
        Error::unavailable(text).into()
    }
}
