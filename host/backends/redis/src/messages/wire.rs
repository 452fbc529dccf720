//! A message as bytes: `SUBJECT`, `ORIGIN`, `REPLY-TO`, `ID` and the length of the headers, each in a line, then the headers
//! and the body. Scripts read the first two.

use lodge_state::Error;
use lodge_state::messages::{Headers, Message, MessageBody, MessageId, Subject};

use crate::reply::unexpected;

/// The bytes of a message that has not died anywhere.
pub(crate) fn stored(message: &Message, id: &MessageId) -> Vec<u8> {
    let (reply_to, headers) = (message.reply_to.as_ref().map_or("", Subject::as_str), message.headers.as_str());
    let head = format!("{}\n\n{reply_to}\n{id}\n{}\n{headers}", message.subject.as_str(), headers.len());
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&message.body.bytes());
    bytes
}

/// Reads a message, its id and the subject that it was published to before it died there.
///
/// # Errors
/// If another program has written it.
pub(crate) fn read(bytes: Vec<u8>) -> Result<(Message, MessageId, Option<Subject>), Error> {
    let mut parts = bytes.splitn(6, |byte| *byte == b'\n');
    let mut line = || parts.next().and_then(|part| std::str::from_utf8(part).ok()).ok_or_else(unexpected);
    let optional = |text: &str| (!text.is_empty()).then(|| Subject::new(text)).transpose().map_err(|_| unexpected());
    let subject = Subject::new(line()?).map_err(|_| unexpected())?;
    let (origin, reply_to) = (optional(line()?)?, optional(line()?)?);
    let id = MessageId::new(line()?);
    let length: usize = line()?.parse().map_err(|_| unexpected())?;
    let rest = parts.next().ok_or_else(unexpected)?;
    let (headers, body) = rest.split_at_checked(length).ok_or_else(unexpected)?;
    let headers = std::str::from_utf8(headers).map_err(|_| unexpected())?;
    let (headers, body) = (Headers::read(headers).map_err(|_| unexpected())?, MessageBody::new(body.to_vec()));
    let body = body.map_err(|_| unexpected())?;
    Ok((Message { subject, reply_to, headers, body }, id, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_all_of_their_parts() {
        let subject = |text| Subject::new(text).unwrap();
        let headers = Headers::new([("x", " a: ä "), ("x", ""), ("y", "z")]).unwrap();
        let body = MessageBody::new(vec![0, 13, 10, 10, 255]).unwrap();
        let message = Message { subject: subject("a.b"), reply_to: Some(subject("c")), headers, body };
        let id = MessageId::new("12ab");
        assert_eq!(read(stored(&message, &id)), Ok((message.clone(), id.clone(), None)));
        let plain = Message { reply_to: None, headers: Headers::default(), body: MessageBody::default(), ..message };
        assert_eq!(read(stored(&plain, &id)), Ok((plain, id, None)));
    }

    #[test]
    fn what_other_programs_write_is_refused() {
        assert!(read(b"a\no\n\nid\n2\nx:".to_vec()).is_ok());
        for foreign in [&b""[..], b"a", b"a\n\n\nid\n9\nx", b"a\n\n\nid\nx\n", b"a b\n\n\nid\n0\n", b"a\n*\n\nid\n0\n"]
        {
            assert!(matches!(read(foreign.to_vec()), Err(Error::Unavailable { .. })), "{foreign:?}");
        }
    }
}
