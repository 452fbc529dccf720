//! What can be wrong with the body of a client's request.

/// The reason why the body of a request cannot be passed on to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is over the service's limit.
    #[error("the request body is larger than this service allows")]
    TooLarge,
    /// The client had not sent the whole body when the time was used up.
    #[error("the request body did not arrive in time")]
    Late,
    /// The body ended before it was complete.
    #[error("the request body ended before it was complete")]
    Broken,
}
