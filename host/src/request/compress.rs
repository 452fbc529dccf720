//! Compresses responses: the last step before they are sent.

use std::net::IpAddr;
use std::sync::Arc;

use http::Response;
use http_body::Body as _;

use super::front::ClientFront;
use super::respond::Body;
use lodge_traffic::admission::client_memory::ClientMemory;
use lodge_traffic::proxy::compression;
use lodge_traffic::proxy::compression::encoder::{self, Encoder};
use lodge_traffic::service::Service;

/// Compresses a response of `service`, if its route says so, it may be compressed and the client accepts it. While `memory` has no
/// room for another encoder of this client, it is sent as it is.
pub(super) fn compress(
    front: &ClientFront,
    response: Response<Body>,
    (memory, client): (&Arc<ClientMemory>, IpAddr),
    service: &Arc<Service>,
) -> Response<Body> {
    let Some((rules, request)) = front.compression() else { return response };
    let (mut head, body) = response.into_parts();
    if !request.prepare(rules, &mut head, body.size_hint().exact()) {
        return Response::from_parts(head, body);
    }
    let mut codings = request.codings(rules).peekable();
    if request.is_head() {
        codings.next().iter().for_each(|coding| compression::write_head(*coding, &mut head.headers));
        return Response::from_parts(head, body);
    }
    let accepts = codings.peek().is_some();
    // One that needs less memory may find room where a better one does not.
    let encoder =
        codings.find_map(|coding| memory.reserve(client, encoder::room(coding)).zip(Encoder::new(coding).ok()));
    if let Some((room, encoder)) = encoder {
        compression::write_head(encoder.coding(), &mut head.headers);
        return Response::from_parts(head, body.compressed(encoder, room, service));
    }
    if accepts {
        service.metrics.compressed.count_without_room();
    }
    Response::from_parts(head, body)
}
