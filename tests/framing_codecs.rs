//! Codecs against bytes that other implementations made, and what each refuses.

mod support;

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::panic::catch_unwind;

use socketserver::framing::{
    DecodeError, Decoded, Decoder, DelimiterCodec, EncodeError, Encoder, FixedLengthCodec, Framed,
    LengthDelimitedCodec as Length, LinesCodec, NetstringCodec, WholeStreamCodec,
};
use support::pieces::Pieces;

tests![
    python_struct_headers,
    erlang_packets,
    varints_as_protobuf_writes_them,
    netstrings_as_specified,
    lines_end_with_lf_or_crlf,
    any_bytes_delimit,
    fixed_lengths,
    the_whole_stream_is_one_message,
    the_headers_of_mysql_postgres_and_mongodb,
    netty_examples,
    a_64_bit_length_is_a_length,
    lengths_that_are_none_are_refused,
    varints_that_are_too_long_are_refused,
    netstrings_that_are_none_are_refused,
    a_message_over_the_limit_by_one_is_refused,
    a_limit_without_end_is_no_overflow,
    the_end_inside_a_message_says_how_much_had_arrived,
    what_the_end_cuts_off_is_a_message_where_that_was_asked_for,
    what_could_not_be_decoded_is_not_sent,
    a_header_in_the_message_must_be_right,
    header_bytes_that_are_skipped_cannot_be_sent,
    a_frame_that_is_skipped_whole_is_an_empty_message,
    a_message_as_long_as_its_length_field_can_say_arrives,
    a_header_that_is_skipped_by_its_length_is_sent_as_usual,
    codecs_that_make_no_sense_panic,
    errors_say_what_is_wrong_and_what_to_do,
];

/// What a decoder makes of bytes, however they arrive.
#[track_caller]
fn decode<C: Decoder + Clone>(codec: &C, bytes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let whole: io::Result<Vec<_>> = Framed::new(bytes, codec.clone()).collect();
    let bytewise: io::Result<Vec<_>> = Framed::new(Pieces::bytewise(bytes), codec.clone()).collect();
    match (&whole, &bytewise) {
        (Ok(whole), Ok(bytewise)) => assert_eq!(whole, bytewise),
        (Err(whole), Err(bytewise)) => assert_eq!(whole.kind(), bytewise.kind(), "{whole}; bytewise: {bytewise}"),
        other => panic!("not the same bytewise: {other:?}"),
    }
    whole
}

#[track_caller]
fn encode<C: Encoder + Clone>(codec: &C, messages: &[&[u8]]) -> io::Result<Vec<u8>> {
    let mut framed = Framed::new(Pieces::default(), codec.clone());
    for message in messages {
        framed.send(message)?;
    }
    Ok(framed.into_parts().io.written)
}

/// The bytes are these messages, both ways.
#[track_caller]
fn both_ways<C: Decoder + Encoder + Clone>(codec: &C, bytes: &[u8], messages: &[&[u8]]) {
    assert_eq!(decode(codec, bytes).unwrap(), messages);
    assert_eq!(encode(codec, messages).unwrap(), bytes);
}

#[track_caller]
fn decode_error(codec: &(impl Decoder + Clone), bytes: &[u8]) -> DecodeError {
    let error = decode(codec, bytes).unwrap_err();
    let inner: &DecodeError = error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap();
    let is_end = matches!(
        inner,
        DecodeError::TruncatedHeader { .. } | DecodeError::Truncated { .. } | DecodeError::Unterminated { .. }
    );
    let expected = if is_end {
        ErrorKind::UnexpectedEof
    } else {
        ErrorKind::InvalidData
    };
    assert_eq!(error.kind(), expected);
    inner.clone()
}

#[track_caller]
fn encode_error(codec: &(impl Encoder + Clone), message: &[u8]) -> EncodeError {
    let mut framed = Framed::new(Pieces::default(), codec.clone());
    let error = framed.send(message).unwrap_err();
    framed.flush().unwrap();
    assert_eq!(framed.get_ref().written, b"", "nothing of it was written");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<EncodeError>())
        .unwrap()
        .clone()
}

// Made by CPython 3.11: struct.pack(format, 5) + b'hello' + struct.pack(format, 0) + struct.pack(format, 300).
fn python_struct_headers() {
    let long = [b'x'; 300];
    let messages: [&[u8]; 3] = [b"hello", b"", &long];
    let on_the_wire = |headers: [&[u8]; 3]| [headers[0], b"hello", headers[1], headers[2], &long].concat();
    let big_endian = on_the_wire([b"\0\0\0\x05", b"\0\0\0\0", b"\0\0\x01\x2c"]);
    let little_endian = on_the_wire([b"\x05\0\0\0", b"\0\0\0\0", b"\x2c\x01\0\0"]);
    both_ways(&Length::u32_be(), &big_endian, &messages); // '!I', '>I'
    both_ways(&Length::u32_le(), &little_endian, &messages); // '<I'
    both_ways(&Length::builder().signed().new_codec(), &big_endian, &messages); // '!i'
    let native = if cfg!(target_endian = "big") {
        &big_endian
    } else {
        &little_endian
    };
    both_ways(&Length::struct_i(), native, &messages); // 'i', '@i', '=i'
    both_ways(
        &Length::u16_be(), // '!H'
        &on_the_wire([b"\0\x05", b"\0\0", b"\x01\x2c"]),
        &messages,
    );
    both_ways(
        &Length::u16_le(), // '<H'
        &on_the_wire([b"\x05\0", b"\0\0", b"\x2c\x01"]),
        &messages,
    );
    both_ways(
        &Length::u64_be(), // '!Q'
        &on_the_wire([b"\0\0\0\0\0\0\0\x05", &[0; 8], b"\0\0\0\0\0\0\x01\x2c"]),
        &messages,
    );
    both_ways(
        &Length::u64_le(), // '<Q'
        &on_the_wire([b"\x05\0\0\0\0\0\0\0", &[0; 8], b"\x2c\x01\0\0\0\0\0\0"]),
        &messages,
    );
    both_ways(&Length::u8(), b"\x05hello\0\x01x", &[b"hello", b"", b"x"]); // 'B'
}

// inet(3) of Erlang: "a header specifying the number of bytes in the packet, followed by that number of bytes.
// The header length can be one, two, or four bytes, and the order of the bytes is big-endian."
fn erlang_packets() {
    both_ways(&Length::erlang_packet(1), b"\x05hello\0", &[b"hello", b""]);
    both_ways(&Length::erlang_packet(2), b"\0\x05hello\0\0", &[b"hello", b""]);
    both_ways(&Length::erlang_packet(4), b"\0\0\0\x05hello\0\0\0\0", &[b"hello", b""]);
}

// From protobuf's encoding guide: 150 is 96 01, 1 is 01; and the first of two, of three bytes.
fn varints_as_protobuf_writes_them() {
    let message = |length: usize| vec![b'x'; length];
    for (length, header) in [
        (0, &b"\x00"[..]),
        (1, b"\x01"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (150, b"\x96\x01"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
    ] {
        let message = message(length);
        both_ways(&Length::varint(), &[header, &message].concat(), &[&message]);
    }
}

// https://cr.yp.to/proto/netstrings.txt: <31 32 3a 68 65 6c 6c 6f 20 77 6f 72 6c 64 21 2c> and "0:,".
fn netstrings_as_specified() {
    let hello = b"\x31\x32\x3a\x68\x65\x6c\x6c\x6f\x20\x77\x6f\x72\x6c\x64\x21\x2c";
    both_ways(&NetstringCodec::new(), hello, &[b"hello world!"]);
    both_ways(&NetstringCodec::new(), b"0:,", &[b""]);
    // A netstring of netstrings, as in the specification.
    both_ways(
        &NetstringCodec::new(),
        b"17:5:hello,6:world!,,",
        &[b"5:hello,6:world!,"],
    );
}

fn lines_end_with_lf_or_crlf() {
    both_ways(&LinesCodec::new(), b"hello\n\nwo\rrld\n", &[b"hello", b"", b"wo\rrld"]);
    both_ways(
        &LinesCodec::crlf(),
        b"hello\r\n\r\nworld\r\n",
        &[b"hello", b"", b"world"],
    );
    for codec in [LinesCodec::new(), LinesCodec::crlf()] {
        assert_eq!(decode(&codec, b"a\r\nb\n\r\n\n").unwrap(), [&b"a"[..], b"b", b"", b""]);
        // One CR belongs to the line end.
        assert_eq!(decode(&codec, b"a\r\r\n").unwrap(), [b"a\r"]);
    }
    // Lines are bytes.
    both_ways(
        &LinesCodec::new(),
        b"\xd6\xb4\xd0\xd0\n\0\n",
        &[b"\xd6\xb4\xd0\xd0", b"\0"],
    );
}

fn any_bytes_delimit() {
    both_ways(&DelimiterCodec::new("\0"), b"one\0\0two\0", &[b"one", b"", b"two"]);
    both_ways(&DelimiterCodec::new("-->"), b"a-->-->->-->", &[b"a", b"", b"->"]);
    both_ways(&DelimiterCodec::new("aab"), b"aaaabaab", &[b"aa", b""]);
}

fn fixed_lengths() {
    both_ways(&FixedLengthCodec::new(3), b"onetwo", &[b"one", b"two"]);
    both_ways(
        &FixedLengthCodec::new(100_000),
        &vec![7; 200_000],
        &[&vec![7; 100_000], &vec![7; 100_000]],
    );
}

fn the_whole_stream_is_one_message() {
    both_ways(&WholeStreamCodec::new(), b"all\nof it", &[b"all\nof it"]);
    both_ways(&WholeStreamCodec::new(), b"", &[b""]);
    let twice = encode(&WholeStreamCodec::new(), &[b"one", b"two"]).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::InvalidInput);
    assert!(twice.to_string().contains("open another connection"), "{twice}");
}

fn the_headers_of_mysql_postgres_and_mongodb() {
    // MySQL's COM_PING: length 1 in three bytes, sequence number 0, then the command 0x0e.
    let mysql = Length::builder()
        .length_field_length(3)
        .little_endian()
        .length_adjustment(1)
        .new_codec();
    both_ways(&mysql, b"\x01\0\0\0\x0e", &[b"\0\x0e"]);
    // Postgres' ReadyForQuery: 'Z', a length of 5 that counts itself, 'I' for idle.
    let postgres = Length::builder()
        .length_field_offset(1)
        .length_adjustment(-4)
        .num_skip(0)
        .new_codec();
    both_ways(&postgres, b"Z\0\0\0\x05I", &[b"Z\0\0\0\x05I"]);
    // MongoDB counts the header.
    let mongodb = Length::builder()
        .little_endian()
        .signed()
        .length_includes_header()
        .new_codec();
    both_ways(&mongodb, b"\x09\0\0\0hello", &[b"hello"]);
    assert_eq!(
        decode_error(&mongodb, b"\x03\0\0\0"),
        DecodeError::TooShort { length: 3, least: 4 }
    );
}

// The examples in the documentation of LengthFieldBasedFrameDecoder.
fn netty_examples() {
    let two = || Length::builder().length_field_length(2);
    let one = |codec: &Length, bytes: &[u8]| decode(codec, bytes).unwrap().concat();
    let plain = b"\0\x0cHELLO, WORLD";
    assert_eq!(one(&two().num_skip(0).new_codec(), plain), plain);
    assert_eq!(one(&two().new_codec(), plain), b"HELLO, WORLD");
    let counting = b"\0\x0eHELLO, WORLD";
    assert_eq!(
        one(&two().length_adjustment(-2).num_skip(0).new_codec(), counting),
        counting
    );
    assert_eq!(
        one(&two().length_includes_header().new_codec(), counting),
        b"HELLO, WORLD"
    );
    let three = || Length::builder().length_field_length(3).num_skip(0);
    let behind = b"\xca\xfe\0\0\x0cHELLO, WORLD";
    assert_eq!(one(&three().length_field_offset(2).new_codec(), behind), behind);
    let before = b"\0\0\x0c\xca\xfeHELLO, WORLD";
    assert_eq!(one(&three().length_adjustment(2).new_codec(), before), before);
    let middle = two().length_field_offset(1).num_skip(3);
    let codec = middle.clone().length_adjustment(1).new_codec();
    assert_eq!(one(&codec, b"\xca\0\x0c\xfeHELLO, WORLD"), b"\xfeHELLO, WORLD");
    let codec = middle.length_adjustment(-3).new_codec();
    assert_eq!(one(&codec, b"\xca\0\x10\xfeHELLO, WORLD"), b"\xfeHELLO, WORLD");
}

fn a_64_bit_length_is_a_length() {
    let codec = Length::u64_be();
    let most = DecodeError::TooLong {
        length: u64::MAX,
        limit: 8 << 20,
    };
    assert_eq!(decode_error(&codec, &[0xff; 8]), most);
    let signed = Length::builder().length_field_length(8).signed().new_codec();
    assert_eq!(
        decode_error(&signed, &[0xff; 8]),
        DecodeError::NegativeLength { length: -1 }
    );
    let adjusted = Length::builder()
        .length_field_length(8)
        .length_adjustment(1)
        .new_codec();
    assert_eq!(decode_error(&adjusted, &[0xff; 8]), most);
}

fn lengths_that_are_none_are_refused() {
    let all_ones = [0xff; 4];
    let too_long = DecodeError::TooLong {
        length: 0xffff_ffff,
        limit: 8 << 20,
    };
    assert_eq!(decode_error(&Length::u32_be(), &all_ones), too_long);
    assert_eq!(decode_error(&Length::u32_le(), &all_ones), too_long);
    assert_eq!(
        decode_error(&Length::struct_i(), &all_ones),
        DecodeError::NegativeLength { length: -1 }
    );
    let lowest = i32::MIN.to_ne_bytes();
    assert_eq!(
        decode_error(&Length::struct_i(), &lowest),
        DecodeError::NegativeLength {
            length: i32::MIN.into()
        }
    );
    // A length that leaves less than is to be skipped.
    let skipping = Length::builder().length_field_length(1).num_skip(4).new_codec();
    assert_eq!(
        decode_error(&skipping, b"\x01x"),
        DecodeError::TooShort { length: 1, least: 3 }
    );
}

fn varints_that_are_too_long_are_refused() {
    let codec = Length::varint();
    for overlong in [
        &b"\x80\0"[..],
        b"\x85\x80\0",
        &[0x80; 10],
        &[0xff; 10],
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
    ] {
        assert_eq!(
            decode_error(&codec, overlong),
            DecodeError::OverlongVarint,
            "{overlong:x?}"
        );
    }
    let most = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    assert_eq!(
        decode_error(&codec, most),
        DecodeError::TooLong {
            length: u64::MAX,
            limit: 8 << 20
        }
    );
}

fn netstrings_that_are_none_are_refused() {
    let codec = NetstringCodec::new();
    for (bytes, error) in [
        (&b"x"[..], DecodeError::InvalidDigit { byte: b'x' }),
        (b":,", DecodeError::InvalidDigit { byte: b':' }),
        (b"-1:,", DecodeError::InvalidDigit { byte: b'-' }),
        (b"1 :x,", DecodeError::InvalidDigit { byte: b' ' }),
        (b"+1:x,", DecodeError::InvalidDigit { byte: b'+' }),
        (b"05:hello,", DecodeError::LeadingZero),
        (b"00:,", DecodeError::LeadingZero),
        (b"5:hello;", DecodeError::NoComma { byte: b';' }),
        (b"5:hello!,", DecodeError::NoComma { byte: b'!' }),
        (b"111111111111111111111", DecodeError::NoColon),
        (
            b"8388609:",
            DecodeError::TooLong {
                length: 8_388_609,
                limit: 8_388_608,
            },
        ),
        (
            b"99999999999999999999:",
            DecodeError::TooLong {
                length: u64::MAX,
                limit: 8_388_608,
            },
        ),
    ] {
        assert_eq!(decode_error(&codec, bytes), error);
    }
}

fn a_message_over_the_limit_by_one_is_refused() {
    fn at_the_limit<C: Decoder + Encoder + Clone>(
        codec: C,
        at: &[u8],
        message: &[u8],
        over: &[u8],
    ) -> (C, DecodeError) {
        both_ways(&codec, at, &[message]);
        let too_long = [message, b"5"].concat();
        assert_eq!(
            encode_error(&codec, &too_long),
            EncodeError::TooLong { length: 5, limit: 4 }
        );
        let error = decode_error(&codec, over);
        (codec, error)
    }
    let too_long = DecodeError::TooLong { length: 5, limit: 4 };
    let length = at_the_limit(
        Length::u32_be().max_frame_length(4),
        b"\0\0\0\x041234",
        b"1234",
        b"\0\0\0\x05",
    );
    assert_eq!(length.1, too_long);
    let built = Length::builder().varint().max_frame_length(4).new_codec();
    assert_eq!(at_the_limit(built, b"\x041234", b"1234", b"\x05").1, too_long);
    let netstring = NetstringCodec::new().max_frame_length(4);
    assert_eq!(at_the_limit(netstring, b"4:1234,", b"1234", b"5:").1, too_long);
    let whole = WholeStreamCodec::new().max_frame_length(4);
    assert_eq!(at_the_limit(whole, b"1234", b"1234", b"12345").1, too_long);
    let lines = LinesCodec::new().max_frame_length(4);
    let (lines, _) = at_the_limit(lines, b"1234\n", b"1234", b"12345\n");
    let crlf = LinesCodec::crlf().max_frame_length(4);
    at_the_limit(crlf, b"1234\r\n", b"1234", b"12345\r\n");
    let no_delimiter = |searched| DecodeError::NoDelimiter { searched, limit: 4 };
    assert_eq!(decode_error(&lines, b"123456"), no_delimiter(6));
    assert_eq!(decode_error(&lines, b"12345\r\n"), no_delimiter(5));
    let delimiter = DelimiterCodec::new("<>").max_frame_length(4);
    let (_, error) = at_the_limit(delimiter, b"1234<>", b"1234", b"12345<>");
    assert_eq!(error, no_delimiter(5));
}

fn a_limit_without_end_is_no_overflow() {
    let most = usize::MAX;
    both_ways(&LinesCodec::new().max_frame_length(most), b"one\n", &[b"one"]);
    both_ways(&DelimiterCodec::new("ab").max_frame_length(most), b"oneab", &[b"one"]);
    both_ways(&WholeStreamCodec::new().max_frame_length(most), b"one", &[b"one"]);
    both_ways(&NetstringCodec::new().max_frame_length(most), b"3:one,", &[b"one"]);
    let length = Length::u64_be().max_frame_length(most);
    let expected = most / 16;
    let truncated = DecodeError::Truncated { arrived: 0, expected };
    assert_eq!(decode_error(&length, &(expected as u64).to_be_bytes()), truncated);
    let long = vec![b'x'; 1 << 20];
    both_ways(&WholeStreamCodec::new().max_frame_length(most), &long, &[&long]);
    let skipping = Length::builder().length_adjustment(-9).num_skip(most).new_codec();
    let too_short = DecodeError::TooShort {
        length: 9,
        least: (most as u64).saturating_add(5),
    };
    assert_eq!(decode_error(&skipping, b"\0\0\0\x09"), too_short);
}

/// Says nothing of the end of the stream.
#[derive(Clone)]
struct Four;

impl Decoder for Four {
    fn decode(&mut self, bytes: &[u8]) -> io::Result<Decoded> {
        FixedLengthCodec::new(4).decode(bytes)
    }
}

fn the_end_inside_a_message_says_how_much_had_arrived() {
    let header = |arrived, expected| DecodeError::TruncatedHeader { arrived, expected };
    let body = |arrived, expected| DecodeError::Truncated { arrived, expected };
    let u32_be = Length::u32_be();
    assert_eq!(decode_error(&u32_be, b"\0\0"), header(2, 4));
    assert_eq!(decode_error(&u32_be, b"\0\0\0\x05"), body(0, 5));
    assert_eq!(decode_error(&u32_be, b"\0\0\0\x01x\0\0\0\x05hell"), body(4, 5));
    assert_eq!(decode_error(&Length::varint(), b"\x80\x80"), header(2, 3));
    assert_eq!(decode_error(&NetstringCodec::new(), b"12"), header(2, 3));
    assert_eq!(decode_error(&NetstringCodec::new(), b"2:ab"), body(2, 3));
    assert_eq!(decode_error(&FixedLengthCodec::new(10), b"123"), body(3, 10));
    assert_eq!(
        decode_error(&LinesCodec::new(), b"one\ntwo"),
        DecodeError::Unterminated { arrived: 3 }
    );
    assert_eq!(
        decode_error(&DelimiterCodec::new("--"), b"two-"),
        DecodeError::Unterminated { arrived: 4 }
    );
    // A user's decoder that says nothing about it.
    assert_eq!(decode_error(&Four, b"12341"), body(1, 4));
    for codec in [&u32_be, &Length::varint()] {
        assert_eq!(decode(codec, b"").unwrap(), [[]; 0], "a clean end");
    }
}

fn what_the_end_cuts_off_is_a_message_where_that_was_asked_for() {
    assert_eq!(
        decode(&LinesCodec::new().allow_unterminated(), b"a\nb").unwrap(),
        [b"a", b"b"]
    );
    assert_eq!(decode(&LinesCodec::new().allow_unterminated(), b"a\n").unwrap(), [b"a"]);
    assert_eq!(
        decode(&DelimiterCodec::new(";;").allow_unterminated(), b"a;;b;").unwrap(),
        [&b"a"[..], b"b;"]
    );
    // The limit is that of any message, whatever room there is for the end that has not come.
    let too_long = DecodeError::NoDelimiter { searched: 4, limit: 3 };
    let lines = LinesCodec::new().max_frame_length(3).allow_unterminated();
    assert_eq!(decode(&lines, b"abc").unwrap(), [b"abc"]);
    assert_eq!(decode_error(&lines, b"abcd"), too_long);
    let delimited = DelimiterCodec::new(";;").max_frame_length(3).allow_unterminated();
    assert_eq!(decode_error(&delimited, b"abcd"), too_long);
}

fn what_could_not_be_decoded_is_not_sent() {
    let delimiter_at = |at| EncodeError::ContainsDelimiter { at };
    assert_eq!(encode_error(&LinesCodec::new(), b"two\nlines"), delimiter_at(3));
    assert_eq!(encode_error(&LinesCodec::new(), b"a CR\r"), delimiter_at(4));
    assert_eq!(encode_error(&LinesCodec::crlf(), b"a CR\r"), delimiter_at(4));
    assert_eq!(encode_error(&DelimiterCodec::new("\r\n"), b"a\r\nb"), delimiter_at(1));
    // Followed by the delimiter it would end one byte early.
    assert_eq!(encode_error(&DelimiterCodec::new("aa"), b"ba"), delimiter_at(1));
    assert_eq!(encode_error(&DelimiterCodec::new("abab"), b"xab"), delimiter_at(1));
    both_ways(&DelimiterCodec::new("ab"), b"aab", &[b"a"]);
    // Most often it is a line with its end.
    let text = encode_error(&LinesCodec::new(), b"250 ok\r\n").to_string();
    assert!(
        text.contains("leave it out at the end, where the codec sends it (CRLF: LinesCodec::crlf)"),
        "{text}"
    );
    let wrong = EncodeError::WrongLength { length: 2, expected: 3 };
    assert_eq!(encode_error(&FixedLengthCodec::new(3), b"12"), wrong);
    let does_not_fit = |length, largest| EncodeError::DoesNotFit { length, largest };
    assert_eq!(encode_error(&Length::u8(), &[0; 256]), does_not_fit(256, 255));
    assert_eq!(
        encode_error(&Length::u16_le(), &vec![0; 65_536]),
        does_not_fit(65_536, 65_535)
    );
    let signed = Length::builder().length_field_length(1).signed().new_codec();
    assert_eq!(encode_error(&signed, &[0; 128]), does_not_fit(128, 127));
    let counting = Length::builder()
        .length_field_length(1)
        .length_includes_header()
        .new_codec();
    assert_eq!(encode_error(&counting, &[0; 255]), does_not_fit(255, 255));
    let adjusted = Length::builder().length_adjustment(2).new_codec();
    assert_eq!(
        encode_error(&adjusted, b"1"),
        EncodeError::TooShort { length: 1, least: 2 }
    );
}

fn a_header_in_the_message_must_be_right() {
    let codec = Length::builder()
        .length_field_offset(1)
        .length_field_length(2)
        .num_skip(0)
        .new_codec();
    both_ways(&codec, b"T\0\x02hi", &[b"T\0\x02hi"]);
    for wrong in [&b"T\0\x03hi"[..], b"T\0\x01hi", b"T\0", b""] {
        let length = wrong.len();
        assert_eq!(encode_error(&codec, wrong), EncodeError::HeaderMismatch { length });
    }
    let short = codec.max_frame_length(4);
    let too_long = EncodeError::TooLong { length: 8, limit: 4 };
    assert_eq!(encode_error(&short, b"T\0\x05hello"), too_long);
    // It is within the limit: its header alone says otherwise.
    let mismatch = EncodeError::HeaderMismatch { length: 4 };
    assert_eq!(encode_error(&short, b"T\0\x05h"), mismatch);
}

fn header_bytes_that_are_skipped_cannot_be_sent() {
    for skipping in [
        Length::builder().length_field_offset(1).new_codec(),
        Length::builder().num_skip(5).new_codec(),
        Length::builder().length_field_offset(2).num_skip(1).new_codec(),
    ] {
        assert_eq!(encode_error(&skipping, b"hello"), EncodeError::UnknownHeader);
    }
}

fn a_frame_that_is_skipped_whole_is_an_empty_message() {
    let codec = Length::builder().length_field_length(1).num_skip(3).new_codec();
    assert_eq!(decode(&codec, b"\x02ab\x03abc").unwrap(), [&b""[..], b"c"]);
}

fn a_message_as_long_as_its_length_field_can_say_arrives() {
    let message = [b'x'; 255];
    both_ways(&Length::u8(), &[b"\xff", &message[..]].concat(), &[&message]);
    let signed = Length::builder().length_field_length(1).signed().new_codec();
    both_ways(&signed, &[b"\x7f", &message[..127]].concat(), &[&message[..127]]);
}

fn a_header_that_is_skipped_by_its_length_is_sent_as_usual() {
    let codec = Length::builder().length_field_length(2).num_skip(2).new_codec();
    both_ways(&codec, b"\0\x02hi", &[b"hi"]);
}

fn codecs_that_make_no_sense_panic() {
    fn message<T: Debug>(make: fn() -> T) -> String {
        let payload = catch_unwind(make).unwrap_err();
        payload
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| (*payload.downcast_ref::<&str>().unwrap()).to_owned())
    }
    // Without the lines of the default hook among the tests' output.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let messages = [
        message(|| Length::erlang_packet(3)),
        message(|| Length::builder().length_field_length(0).new_codec()),
        message(|| Length::builder().length_field_length(9).new_codec()),
        message(|| Length::builder().varint().length_includes_header().new_codec()),
        message(|| Length::builder().varint().num_skip(2).new_codec()),
        message(|| FixedLengthCodec::new(0)),
        message(|| DelimiterCodec::new("")),
    ];
    std::panic::set_hook(hook);
    let expected = [
        "{packet, 1}",
        "1 to 8 bytes, not 0",
        "not 9",
        "varint",
        "varint",
        "at least one byte",
        "is empty",
    ];
    for (message, expected) in messages.iter().zip(expected) {
        assert!(message.contains(expected), "{message}");
    }
}

fn errors_say_what_is_wrong_and_what_to_do() {
    for (error, parts) in [
        (
            DecodeError::TooLong {
                length: 9_000_000,
                limit: 8_388_608,
            }
            .to_string(),
            ["9000000 bytes", "limit of 8388608", "max_frame_length"],
        ),
        (
            DecodeError::NoDelimiter {
                searched: 8194,
                limit: 8192,
            }
            .to_string(),
            ["first 8194 bytes", "limit is 8192", "max_frame_length"],
        ),
        (
            DecodeError::NegativeLength { length: -1 }.to_string(),
            ["-1 bytes", "another protocol", "byte order"],
        ),
        (
            DecodeError::Truncated {
                arrived: 3,
                expected: 10,
            }
            .to_string(),
            ["the stream ended", "3 of 10 bytes", "arrived"],
        ),
        (
            // Of `:,`, where a digit is missing.
            DecodeError::InvalidDigit { byte: b':' }.to_string(),
            ["byte 0x3a", "digits and then a colon", "netstrings?"],
        ),
        (
            EncodeError::DoesNotFit {
                length: 256,
                largest: 255,
            }
            .to_string(),
            ["256 bytes", "at most 255", "wider"],
        ),
    ] {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}
