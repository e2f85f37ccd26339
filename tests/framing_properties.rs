//! What holds for every codec: any messages arrive as they were sent, however the stream is cut, and no bytes
//! do harm.

mod support;

use std::fmt::Debug;
use std::io;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use socketserver::framing::{
    Decoder, DelimiterCodec, Encoder, FixedLengthCodec, Framed, LengthDelimitedCodec, LinesCodec, NetstringCodec,
    WholeStreamCodec,
};
use support::pieces::Pieces;

tests![
    lengths_arrive_as_sent,
    headers_kept_in_the_message_arrive_as_sent,
    lines_arrive_as_sent,
    delimited_messages_arrive_as_sent,
    fixed_lengths_arrive_as_sent,
    netstrings_arrive_as_sent,
    whole_streams_arrive_as_sent,
    any_bytes_are_messages_or_an_error_for_lengths,
    any_bytes_are_messages_or_an_error_for_lines_and_delimiters,
    any_bytes_are_messages_or_an_error_for_netstrings,
    any_bytes_are_messages_or_an_error_for_fixed_lengths_and_whole_streams,
];

/// Runs a property on a few hundred values.
#[track_caller]
fn check<T: Debug>(values: impl Strategy<Value = T>, property: impl Fn(T)) {
    let config = Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&values, |value| {
        property(value);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Where a stream is cut: the lengths of its pieces, over and over.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), vec(1..50_usize, 1..8), Just(vec![usize::MAX])]
}

fn cut(mut bytes: &[u8], cuts: &[usize]) -> Pieces {
    let mut pieces = Vec::new();
    for &length in cuts.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    Pieces::new(pieces)
}

fn decode<C: Decoder + Clone>(codec: &C, bytes: &[u8], cuts: &[usize]) -> io::Result<Vec<Vec<u8>>> {
    Framed::new(cut(bytes, cuts), codec.clone()).collect()
}

/// Every message that the codec sends arrives; what it refuses is not sent at all.
fn arrive<C: Decoder + Encoder + Clone>(codec: &C, messages: &[Vec<u8>], cuts: &[usize]) {
    let mut framed = Framed::new(Pieces::default(), codec.clone());
    let sent: Vec<_> = messages
        .iter()
        .filter(|message| match framed.feed(message) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => false,
            Err(error) => panic!("{error}"),
        })
        .collect();
    framed.flush().unwrap();
    let wire = framed.into_parts().io.written;
    let arrived = decode(codec, &wire, cuts).unwrap();
    assert_eq!(arrived.iter().collect::<Vec<_>>(), sent);
}

/// Messages of bytes among which those that mean something to some codec are frequent.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let meaningful = prop::sample::select(b"\r\n,:0123;\0\x01\x80\xff-".as_slice());
    let byte = prop_oneof![meaningful, any::<u8>()];
    prop_oneof![8 => vec(byte, 0..40), 1 => vec(any::<u8>(), 200..9000)]
}

fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(message(), 0..6)
}

/// Any length field that is skipped and nothing else, so that it can be sent, too.
fn length_codec() -> impl Strategy<Value = LengthDelimitedCodec> {
    let field = prop_oneof![4 => (1..=8_usize).prop_map(Some), 1 => Just(None)];
    (field, any::<[bool; 4]>(), -5..5_i64, 0..9000_usize).prop_map(
        |(width, [little, signed, counting, adjusted], adjustment, limit)| {
            let mut builder = LengthDelimitedCodec::builder().max_frame_length(limit);
            builder = match width {
                Some(width) => builder.length_field_length(width),
                None => builder.varint(),
            };
            if little {
                builder = builder.little_endian();
            }
            if signed {
                builder = builder.signed();
            }
            if adjusted {
                builder = builder.length_adjustment(adjustment);
            } else if counting && width.is_some() {
                builder = builder.length_includes_header();
            }
            builder.new_codec()
        },
    )
}

/// Any header, also those that only decode.
fn any_header() -> impl Strategy<Value = LengthDelimitedCodec> {
    (
        0..5_usize,
        1..=8_usize,
        -9..9_i64,
        proptest::option::of(0..20_usize),
        0..300_usize,
    )
        .prop_map(|(offset, width, adjustment, skip, limit)| {
            let builder = LengthDelimitedCodec::builder()
                .length_field_offset(offset)
                .length_field_length(width)
                .length_adjustment(adjustment)
                .max_frame_length(limit);
            match skip {
                Some(skip) => builder.num_skip(skip).new_codec(),
                None => builder.new_codec(),
            }
        })
}

fn lengths_arrive_as_sent() {
    check((length_codec(), messages(), cuts()), |(codec, messages, cuts)| {
        arrive(&codec, &messages, &cuts);
    });
}

fn headers_kept_in_the_message_arrive_as_sent() {
    let kept = LengthDelimitedCodec::builder()
        .length_field_offset(3)
        .length_field_length(2)
        .num_skip(0)
        .new_codec();
    check((messages(), cuts()), |(messages, cuts)| {
        let with_header = |body: Vec<u8>| {
            let length = u16::try_from(body.len()).unwrap();
            [b"xyz", &length.to_be_bytes()[..], &body].concat()
        };
        let messages: Vec<_> = messages.into_iter().map(with_header).collect();
        arrive(&kept, &messages, &cuts);
    });
}

fn lines_arrive_as_sent() {
    check(
        (any::<bool>(), 0..9000_usize, messages(), cuts()),
        |(crlf, limit, messages, cuts)| {
            let codec = if crlf { LinesCodec::crlf() } else { LinesCodec::new() };
            arrive(&codec.max_frame_length(limit), &messages, &cuts);
        },
    );
}

fn delimited_messages_arrive_as_sent() {
    let delimiter = vec(prop::sample::select(b"ab".as_slice()), 1..5);
    let message = vec(prop::sample::select(b"abc".as_slice()), 0..20);
    check(
        (delimiter, 0..20_usize, vec(message, 0..6), cuts()),
        |(delimiter, limit, messages, cuts)| {
            arrive(
                &DelimiterCodec::new(delimiter).max_frame_length(limit),
                &messages,
                &cuts,
            );
        },
    );
}

fn fixed_lengths_arrive_as_sent() {
    check((1..9000_usize, messages(), cuts()), |(length, mut messages, cuts)| {
        for message in &mut messages {
            message.resize(length, b'x');
        }
        arrive(&FixedLengthCodec::new(length), &messages, &cuts);
    });
}

fn netstrings_arrive_as_sent() {
    check((0..9000_usize, messages(), cuts()), |(limit, messages, cuts)| {
        arrive(&NetstringCodec::new().max_frame_length(limit), &messages, &cuts);
    });
}

fn whole_streams_arrive_as_sent() {
    check((message(), cuts()), |(message, cuts)| {
        arrive(&WholeStreamCodec::new(), &[message], &cuts);
    });
}

/// However they are cut, the bytes are the same messages and the same kind of end; all of a message was there.
fn are_messages_or_an_error<C: Decoder + Clone>(codec: &C, bytes: &[u8], cuts: &[usize]) {
    let ended = |result: io::Result<Vec<Vec<u8>>>| result.map_err(|error| error.kind());
    let whole = ended(decode(codec, bytes, &[usize::MAX]));
    assert_eq!(ended(decode(codec, bytes, cuts)), whole);
    let mut lent = Framed::new(cut(bytes, cuts), codec.clone());
    let mut count = 0;
    while let Ok(Some(message)) = lent.next_ref() {
        count += message.len();
    }
    assert!(count <= bytes.len());
}

fn any_bytes_are_messages_or_an_error_for_lengths() {
    check((length_codec(), message(), cuts()), |(codec, bytes, cuts)| {
        are_messages_or_an_error(&codec, &bytes, &cuts);
    });
    // Mostly small numbers, so that there are messages behind them.
    let bytes = vec(prop_oneof![4 => Just(0), 4 => 0..8_u8, 1 => any::<u8>()], 0..200);
    check((any_header(), bytes, cuts()), |(codec, bytes, cuts)| {
        are_messages_or_an_error(&codec, &bytes, &cuts);
    });
}

fn any_bytes_are_messages_or_an_error_for_lines_and_delimiters() {
    check(
        (0..40_usize, any::<bool>(), message(), cuts()),
        |(limit, unterminated, bytes, cuts)| {
            let mut lines = LinesCodec::new().max_frame_length(limit);
            let mut delimiter = DelimiterCodec::new("\r\n").max_frame_length(limit);
            if unterminated {
                lines = lines.allow_unterminated();
                delimiter = delimiter.allow_unterminated();
            }
            are_messages_or_an_error(&lines, &bytes, &cuts);
            are_messages_or_an_error(&delimiter, &bytes, &cuts);
        },
    );
}

fn any_bytes_are_messages_or_an_error_for_netstrings() {
    // One byte in three is out of place.
    let bytes = prop_oneof![message(), vec(prop::sample::select(b"0123:,".as_slice()), 0..40)];
    check((0..300_usize, bytes, cuts()), |(limit, bytes, cuts)| {
        are_messages_or_an_error(&NetstringCodec::new().max_frame_length(limit), &bytes, &cuts);
    });
}

fn any_bytes_are_messages_or_an_error_for_fixed_lengths_and_whole_streams() {
    check((1..100_usize, message(), cuts()), |(length, bytes, cuts)| {
        are_messages_or_an_error(&FixedLengthCodec::new(length), &bytes, &cuts);
        are_messages_or_an_error(&WholeStreamCodec::new().max_frame_length(length), &bytes, &cuts);
    });
}
