//! Netascii (RFC 764): LF travels as CR LF, CR as CR NUL.

/// The bytes as netascii, added to `out`, which gets at most twice as many. O(n).
///
/// ```
/// let mut out = Vec::new();
/// mbuf_protocols::tftp::encode(b"a\nb\rc", &mut out);
/// assert_eq!(out, b"a\r\nb\r\0c");
/// ```
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'\n' => out.extend(b"\r\n"),
            b'\r' => out.extend(b"\r\0"),
            byte => out.push(*byte),
        }
    }
}

/// Takes netascii apart, of which a CR may end one block and its other half begin the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decoder {
    carriage: bool,
}

impl Decoder {
    /// Adds what the bytes mean to `out`. A CR before anything else stays what it is. O(n).
    ///
    /// ```
    /// let (mut decoder, mut out) = (mbuf_protocols::tftp::Decoder::default(), Vec::new());
    /// decoder.decode(b"a\r", &mut out);
    /// decoder.decode(b"\nb\r\0\rc", &mut out);
    /// assert_eq!(out, b"a\nb\r\rc");
    /// ```
    pub fn decode(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for byte in bytes {
            match (std::mem::take(&mut self.carriage), byte) {
                (false, b'\r') => self.carriage = true,
                (true, b'\n') => out.push(b'\n'),
                (true, 0) => out.push(b'\r'),
                (true, b'\r') => {
                    out.push(b'\r');
                    self.carriage = true;
                }
                (true, byte) => out.extend([b'\r', *byte]),
                (false, byte) => out.push(*byte),
            }
        }
    }

    /// The end: a CR that came last is one.
    ///
    /// ```
    /// let (mut decoder, mut out) = (mbuf_protocols::tftp::Decoder::default(), Vec::new());
    /// decoder.decode(b"a\r", &mut out);
    /// decoder.finish(&mut out);
    /// assert_eq!(out, b"a\r");
    /// ```
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.carriage {
            out.push(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_back_however_it_is_cut() {
        let bytes = b"\r\n\n\r\r\0\na\0\r";
        let mut wire = Vec::new();
        encode(bytes, &mut wire);
        for cut in 0..=wire.len() {
            let (mut decoder, mut out) = (Decoder::default(), Vec::new());
            decoder.decode(&wire[..cut], &mut out);
            decoder.decode(&wire[cut..], &mut out);
            decoder.finish(&mut out);
            assert_eq!(out, bytes, "{cut}");
        }
    }
}
