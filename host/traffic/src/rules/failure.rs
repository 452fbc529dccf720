//! Why an expression has no value.

/// The steps that the rules may take for one request. A step is one operation, or 16 bytes of text; what it is of patterns,
/// `evaluation` says.
pub(super) const STEPS: usize = 20_000;

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleFailure {
    /// A key is not there.
    #[error("a key is missing; test for it first, by has() or `in`")]
    MissingKey,
    /// A list has no item with this number.
    #[error("a list has no item with this number")]
    MissingItem,
    /// A value has another type.
    #[error("a value has another type than the expression needs")]
    Type,
    /// A text is not what a function reads.
    #[error("a text is not a number or an address")]
    Form,
    /// A header or parameter is not text.
    #[error("a header is not ASCII text")]
    Encoding,
    /// A parameter, or a header that is compared, occurs more than once.
    #[error("a parameter of the query, or a header that is compared, occurs more than once")]
    Several,
    /// A header has another name that services may take for the one that a rule reads.
    #[error(
        "a header has another spelling of the name that is read, which services may take for the same, such as x_a for x-a"
    )]
    Spelling,
    /// The size of the body is not known.
    #[error("the size of the body is not known; test for it first, by has(request.size)")]
    UnknownSize,
    /// A number or a time is out of range.
    #[error("a number or a time is out of range")]
    Overflow,
    /// A division by zero.
    #[error("division by zero")]
    Division,
    /// A text or a header is too large.
    #[error("a text is too large, or cannot be in a header")]
    TooLarge,
    /// The rules cost more than they may for one request.
    #[error("the rules take more than {STEPS} steps")]
    Cost,
}
