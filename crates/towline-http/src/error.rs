//! What hyper's errors mean.
//!
//! hyper and h2 keep most of what they know to themselves: there are a few questions to ask, and causes to look through.
//! Nothing here looks at text.

use std::error::Error as StdError;
use std::io;

use h2::Reason;
use towline_core::{CloseReason, Error, Kind, Phase, Sent};

/// The first error of type `E` in this one's causes.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// What became of the connection's task, where hyper only says that it is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Task {
    #[default]
    Runs,
    /// It has ended, with whatever it had.
    Ended,
    /// It was told to end at once.
    Cut,
    /// It was dropped, by others.
    Lost,
}

/// A call has failed.
pub(crate) fn call_failed(error: hyper::Error, phase: Phase, task: Task) -> Error {
    let answer = |kind| Error::new(kind, phase);
    let ended = || answer(Kind::Closed).with_message("the connection was ended with the calls on it");
    let converted = if task == Task::Cut {
        ended()
    } else if error.is_user() {
        match task {
            Task::Runs => answer(Kind::RequestBody),
            Task::Ended | Task::Cut => ended(),
            Task::Lost => {
                answer(Kind::Runtime).with_message("the connection's task ended before the call; is its runtime gone?")
            }
        }
    } else if error.is_timeout() {
        answer(Kind::Timeout).with_message("the peer did not answer a ping")
    } else if let Some(error) = find::<h2::Error>(&error) {
        of_h2(error, phase)
    } else if error.is_incomplete_message() {
        answer(Kind::UnexpectedEof)
    } else if error.is_parse() {
        answer(Kind::Malformed)
    } else if error.is_canceled() || error.is_closed() {
        answer(Kind::Closed)
    } else {
        answer(of_io(find(&error)))
    };
    converted.with_source(error)
}

/// No connection came out of the stream.
pub(crate) fn handshake_failed(error: hyper::Error) -> Error {
    call_failed(error, Phase::Handshake, Task::Runs).with_sent(Sent::Never)
}

/// A request came too late.
pub(crate) fn already_closed(reason: Option<CloseReason>) -> Error {
    let reason = reason.unwrap_or(CloseReason::Failed);
    Error::new(Kind::Closed, Phase::Write)
        .with_sent(Sent::Never)
        .with_message(format!("the connection was closed before the request was written ({reason})"))
}

fn of_io(error: Option<&io::Error>) -> Kind {
    match error.map(io::Error::kind) {
        // As which h2 passes on an early end.
        Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => Kind::UnexpectedEof,
        // How a TLS stream says that it was refused after the handshake; h2 passes on the kind, and not the error.
        Some(io::ErrorKind::PermissionDenied) => Kind::Tls,
        _ => Kind::Io,
    }
}

fn of_h2(error: &h2::Error, phase: Phase) -> Error {
    let answer = |kind| Error::new(kind, phase);
    match error.reason() {
        // h2 fails a stream with the peer's GOAWAY only when the peer has not processed it.
        Some(_) if error.is_go_away() && error.is_remote() => {
            answer(Kind::Closed).with_sent(Sent::Never).with_message("the peer went away before it took the call")
        }
        Some(Reason::REFUSED_STREAM) if error.is_remote() => {
            answer(Kind::Overloaded).with_sent(Sent::Never).with_message("the peer refused the stream")
        }
        Some(Reason::ENHANCE_YOUR_CALM) if error.is_remote() => answer(Kind::Overloaded),
        Some(_) if error.is_remote() => answer(Kind::Server),
        Some(_) if error.is_library() => answer(Kind::Malformed),
        _ if error.is_io() => match of_io(error.get_io()) {
            Kind::UnexpectedEof => {
                answer(Kind::UnexpectedEof).with_message("the peer closed the connection during the call")
            }
            kind => answer(kind),
        },
        _ => answer(Kind::RequestBody),
    }
}

/// Why a connection takes no more calls, when hyper has ended it with this error.
pub(crate) fn close_reason(error: &hyper::Error) -> CloseReason {
    if error.is_timeout() {
        return CloseReason::Unresponsive;
    }
    match find::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::TimedOut) => CloseReason::Unresponsive,
        Some(io::ErrorKind::PermissionDenied) => CloseReason::Untrusted,
        Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) | None => CloseReason::Failed,
        Some(_) => CloseReason::Peer,
    }
}
