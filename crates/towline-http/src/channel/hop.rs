//! Headers of one connection. They are between two peers, and whoever is on the other side of a pool is not one of them. (RFC 9110,
//! 7.6.1.)

use http::HeaderMap;
use http::header::{CONNECTION, HeaderName, TRANSFER_ENCODING, UPGRADE};

const OTHERS: [HeaderName; 4] =
    [TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

/// Takes them out, those that `Connection` names among them.
pub(super) fn remove(headers: &mut HeaderMap) {
    // Few messages have any, and few have many headers: one look at each is cheaper than a search for each of these.
    if !headers.keys().any(|name| *name == CONNECTION || OTHERS.contains(name)) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named: Vec<String> = named.flat_map(|value| value.split(',')).map(|name| name.trim().to_owned()).collect();
        headers.remove(CONNECTION);
        named.iter().for_each(|name| drop(headers.remove(name.as_str())));
    }
    OTHERS.iter().for_each(|name| drop(headers.remove(name)));
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_belongs_to_one_connection_goes_and_the_rest_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("connection", " not a name ,te"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-private", "1"),
            ("te", "gzip"),
            ("x-public", "2"),
            ("content-length", "3"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        remove(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "x-public"]);
    }
}
