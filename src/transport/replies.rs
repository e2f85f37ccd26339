//! When replies to datagrams leave.

/// When a datagram server sends its replies.
///
/// A bare server (one without a strategy) that is busy receives up to 32 datagrams with one system call, and serves
/// them one after the other. Their replies can leave together, too, which makes a server of small replies to many
/// requests faster. The price: **a reply waits behind the handlers of up to 31 datagrams that came with its own**, so
/// it is for handlers that are quick, and an option.
///
/// Replies that are held back leave when the datagrams that were received together are served, before the server waits
/// for others, and when 32 or 65,507 bytes are held; at the end of serving, too: stopping loses none. What a handler
/// sends with [`send_to`](crate::DatagramRequest::send_to) is held as well. To each address they go in the order of
/// the calls; what one call takes as a datagram arrives as a datagram.
///
/// A reply that is held cannot fail in the handler any more: [`reply`](crate::DatagramRequest::reply) succeeds, the
/// request is served, and if the system does not take the datagram, a warning in the log says so. The others leave all
/// the same. Errors that are known before (an address that is none, more bytes than a datagram holds) are returned as
/// ever. And a handler that sends more than is held learns of it then: `reply` fails with the error of one before it to
/// the same address.
///
/// Under strategies with threads or processes, and in [`handle_request`](crate::BaseServer::handle_request), replies go
/// at once whatever is set: datagrams are not received together there.
///
/// ```
/// use socketserver::Replies;
/// use socketserver::prelude::*;
///
/// let server = UdpServer::new("127.0.0.1:0", |request: &mut DatagramRequest| request.reply(request.packet()))
///     .replies(Replies::Segmented)
///     .bind()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Replies {
    /// By a system call each, when the handler calls `reply`.
    #[default]
    AtOnce,
    /// Held back, and sent with one system call (sendmmsg(2)).
    Batched,
    /// As [`Batched`](Self::Batched); over UDP, replies to one address that are of one length, the last may be shorter,
    /// are also given to the kernel as one message, to be cut by it or by the network card (`UDP_SEGMENT`, udp(7);
    /// Linux 4.18). It pays where clients have several requests under way, or requests have several replies.
    ///
    /// Where the kernel, the network or the length does not allow it, they go one by one. A queue on the way that is
    /// full can drop all segments of a message at once.
    Segmented,
}
