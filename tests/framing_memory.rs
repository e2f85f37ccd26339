//! How much memory a peer can make us take, counted by an allocator.

mod support;

use std::io::{self, Read};

use allocation_counter::{AllocationInfo, measure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use socketserver::StreamRequest;
use socketserver::framing::{
    Decoder, DelimiterCodec, FixedLengthCodec, Framed, LengthDelimitedCodec, LinesCodec, NetstringCodec,
    WholeStreamCodec,
};
use support::pieces::Pieces;

tests![
    messages_are_lent_without_allocating,
    small_messages_are_sent_without_allocating,
    a_length_over_the_limit_takes_no_memory,
    an_announced_message_takes_no_memory_before_it_arrives,
    a_message_at_the_limit_is_in_memory_once,
    a_big_message_gives_its_memory_back,
    a_big_message_of_a_fixed_length_gives_its_memory_back_when_the_next_is_waited_for,
    an_owned_message_is_not_much_smaller_than_its_memory,
    a_stream_of_big_messages_keeps_its_buffer,
    what_a_request_was_given_back_is_not_kept_room_for,
    bytes_without_end_take_no_more_than_the_limit,
    any_bytes_take_no_more_than_the_limit,
    one_byte_at_a_time_is_searched_once,
];

/// What the documentation says beside the limit.
const CONSTANT: u64 = 150 * 1024;

const LIMIT: usize = 8 * 1024 * 1024;

/// Returns what it has so many bytes at a time, without allocating.
struct InSteps<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for InSteps<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (now, _) = self.bytes.split_at(self.step.min(self.bytes.len()));
        let mut now = now;
        let count = now.read(out)?;
        self.bytes = &self.bytes[count..];
        Ok(count)
    }
}

/// Up to here the sender has sent; then it pauses.
struct Pausing<'a>(&'a [u8], bool);

impl Read for Pausing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            0 if !std::mem::replace(&mut self.1, true) => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

/// Decodes to the end or an error.
fn decode_all(stream: impl Read, codec: impl Decoder) -> AllocationInfo {
    measure(|| {
        let mut framed = Framed::new(stream, codec);
        while let Ok(Some(_)) = framed.next_ref() {}
    })
}

fn messages_are_lent_without_allocating() {
    fn no_allocation(wire: &[u8], count: usize, codec: impl Decoder) {
        let mut framed = Framed::new(wire, codec);
        // The buffer is made for the first.
        framed.next_ref().unwrap().unwrap();
        let info = measure(|| {
            for _ in 1..count {
                assert!(framed.next_ref().unwrap().is_some());
            }
        });
        assert_eq!(info.count_total, 0);
        assert!(framed.next_ref().unwrap().is_none());
    }
    for size in [0, 16, 1024, 65_536] {
        let body = vec![b'x'; size];
        let length = u32::try_from(size).unwrap().to_be_bytes();
        no_allocation(
            &[&length[..], &body].concat().repeat(100),
            100,
            LengthDelimitedCodec::u32_be(),
        );
        let netstring = [format!("{size}:").as_bytes(), &body, b","].concat();
        no_allocation(&netstring.repeat(100), 100, NetstringCodec::new());
    }
    no_allocation(&b"a line\r\n".repeat(10_000), 10_000, LinesCodec::new());
    no_allocation(&b"a part--".repeat(10_000), 10_000, DelimiterCodec::new("--"));
    no_allocation(&[0; 1000], 100, FixedLengthCodec::new(10));
}

fn small_messages_are_sent_without_allocating() {
    let mut framed = Framed::new(io::sink(), LengthDelimitedCodec::u32_be());
    let (small, big) = (vec![0; 1000], vec![0; 100_000]);
    framed.send(&small).unwrap();
    let info = measure(|| {
        for _ in 0..100 {
            framed.send(&small).unwrap();
            framed.send(&big).unwrap();
        }
    });
    assert_eq!(info.count_total, 0);
}

fn a_length_over_the_limit_takes_no_memory() {
    for (wire, codec) in [
        (&b"\xff\xff\xff\xff"[..], LengthDelimitedCodec::u32_be()),
        (b"\x00\x80\x00\x01", LengthDelimitedCodec::u32_be()),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            LengthDelimitedCodec::varint(),
        ),
        (&[0xff; 8], LengthDelimitedCodec::u64_le()),
    ] {
        assert!(decode_all(wire, codec).bytes_max < 9000);
    }
    assert!(decode_all(&b"99999999999:"[..], NetstringCodec::new()).bytes_max < 9000);
}

fn an_announced_message_takes_no_memory_before_it_arrives() {
    let announced = 8_388_608_u32.to_be_bytes();
    assert!(decode_all(&announced[..], LengthDelimitedCodec::u32_be()).bytes_max < 9000);
    // And only what so little may take.
    let some = [&announced[..], &vec![0; 36_000]].concat();
    assert!(decode_all(&some[..], LengthDelimitedCodec::u32_be()).bytes_max < 90_000);
}

fn a_message_at_the_limit_is_in_memory_once() {
    let body = vec![b'x'; LIMIT];
    let length = [&u32::try_from(LIMIT).unwrap().to_be_bytes()[..], &body]
        .concat()
        .repeat(2);
    let netstring = [format!("{LIMIT}:").as_bytes(), &body, b","].concat();
    let line = [&body[..], b"\n"].concat();
    for step in [10_000, usize::MAX] {
        let stream = |bytes| InSteps { bytes, step };
        for info in [
            decode_all(stream(&length), LengthDelimitedCodec::u32_be()),
            decode_all(stream(&netstring), NetstringCodec::new()),
            decode_all(stream(&line), LinesCodec::new().max_frame_length(LIMIT)),
            decode_all(stream(&body), WholeStreamCodec::new()),
            decode_all(stream(&body), FixedLengthCodec::new(LIMIT)),
        ] {
            let most = LIMIT as u64 + CONSTANT;
            assert!((LIMIT as u64..most).contains(&info.bytes_max), "{info:?}");
        }
        // An owned one is the buffer.
        let info = measure(|| {
            let owned = Framed::new(stream(&length), LengthDelimitedCodec::u32_be())
                .next()
                .unwrap()
                .unwrap();
            assert_eq!(owned.len(), LIMIT);
        });
        assert!(info.bytes_max < LIMIT as u64 + CONSTANT, "{info:?}");
    }
}

fn a_big_message_gives_its_memory_back() {
    let wire = [&b"7000000:"[..], &vec![b'x'; 7_000_000], b",2:ok,"].concat();
    for step in [1000, usize::MAX] {
        let mut framed = Framed::new(InSteps { bytes: &wire, step }, NetstringCodec::new());
        let held = measure(|| {
            assert_eq!(framed.next_ref().unwrap().unwrap().len(), 7_000_000);
            assert_eq!(framed.next_ref().unwrap().unwrap(), b"ok");
            assert_eq!(framed.next_ref().unwrap(), None);
        });
        assert!(held.bytes_current < 100_000, "{held:?}");
    }
}

fn what_a_request_was_given_back_is_not_kept_room_for() {
    let wire = [&b"7000000:"[..], &vec![b'x'; 7_000_000], b",2:ok,"].concat();
    let (begun, rest) = wire.split_at(6_000_000);
    let pieces = [Ok(begun.to_vec()), Err(io::ErrorKind::WouldBlock), Ok(rest.to_vec())];
    let mut request = StreamRequest::new(Pieces::with_errors(pieces), "a client");
    let held = measure(|| {
        let mut framed = || request.framed(NetstringCodec::new()).next().unwrap();
        assert_eq!(framed().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(framed().unwrap().len(), 7_000_000);
        assert_eq!(framed().unwrap(), b"ok");
    });
    // What had come is not in the stream any more.
    let taken = i64::try_from(wire.len()).unwrap();
    assert!(held.bytes_current + taken < 100_000, "{held:?}");
}

/// What comes next is another big message for certain, but perhaps not for hours.
fn a_big_message_of_a_fixed_length_gives_its_memory_back_when_the_next_is_waited_for() {
    const LENGTH: usize = 1_000_000;
    let wire = vec![b'x'; LENGTH];
    let mut framed = Framed::new(Pausing(&wire, false), FixedLengthCodec::new(LENGTH));
    let held = measure(|| {
        assert_eq!(framed.next_ref().unwrap().unwrap().len(), LENGTH);
        assert_eq!(framed.next_ref().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    });
    assert!(held.bytes_current < 100_000, "{held:?}");
}

/// Who collects messages would else keep a big buffer for each.
fn an_owned_message_is_not_much_smaller_than_its_memory() {
    let message = |length: usize| [format!("{length}:").as_bytes(), &vec![b'x'; length], b","].concat();
    let wire = [message(7_000_000), message(100_000).repeat(3)].concat();
    let mut framed = Framed::new(&wire[..], NetstringCodec::new());
    assert_eq!(framed.next_ref().unwrap().unwrap().len(), 7_000_000);
    for _ in 0..3 {
        let owned = framed.next().unwrap().unwrap();
        assert_eq!(owned.len(), 100_000);
        assert!(owned.capacity() < 200_000 + 1024, "{}", owned.capacity());
    }
}

fn a_stream_of_big_messages_keeps_its_buffer() {
    const COUNT: usize = 8;
    let big = [&b"300000:"[..], &vec![b'x'; 300_000], b","].concat();
    let wire = [&big.repeat(COUNT)[..], b"2:ok,"].concat();
    let mut framed = Framed::new(Pausing(&wire, false), NetstringCodec::new());
    framed.next_ref().unwrap().unwrap();
    let between = measure(|| {
        for _ in 1..COUNT {
            assert_eq!(framed.next_ref().unwrap().unwrap().len(), 300_000);
        }
    });
    assert_eq!(between.count_total, 0, "{between:?}");
    let behind = measure(|| {
        assert_eq!(framed.next_ref().unwrap().unwrap(), b"ok");
        assert_eq!(framed.next_ref().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    });
    assert!(behind.bytes_current < -200_000, "{behind:?}");
}

fn bytes_without_end_take_no_more_than_the_limit() {
    for byte in [0, 1, b'0', b'1', b'x', 0x80, 0xff] {
        for limit in [0, 1000, 300_000] {
            let most = limit as u64 + CONSTANT;
            // Where each byte is a message, they have no end; all of them together are more than may be held.
            let stream = || io::repeat(byte).take(3 * most);
            for info in [
                decode_all(stream(), LengthDelimitedCodec::u8().max_frame_length(limit)),
                decode_all(stream(), LengthDelimitedCodec::u32_le().max_frame_length(limit)),
                decode_all(stream(), LengthDelimitedCodec::varint().max_frame_length(limit)),
                decode_all(stream(), NetstringCodec::new().max_frame_length(limit)),
                decode_all(stream(), LinesCodec::new().max_frame_length(limit)),
                decode_all(stream(), DelimiterCodec::new("\r\n").max_frame_length(limit)),
                decode_all(stream(), WholeStreamCodec::new().max_frame_length(limit)),
            ] {
                assert!(info.bytes_max <= most, "byte {byte}, limit {limit}: {info:?}");
            }
        }
    }
}

fn any_bytes_take_no_more_than_the_limit() {
    let config = Config {
        cases: 100,
        failure_persistence: None,
        ..Config::default()
    };
    // Numbers that are lengths up to 200 KiB, and some of what they announce.
    let part = prop_oneof![
        (0..200_000_u32).prop_map(|length| length.to_be_bytes().to_vec()),
        (0..200_000_u32).prop_map(|length| format!("{length}:").into_bytes()),
        (any::<u8>(), 0..200_000_usize).prop_map(|(byte, count)| vec![byte; count]),
        Just(b"\r\n,".to_vec()),
    ];
    let values = (prop::collection::vec(part, 0..5), 1..200_000_usize, 1..100_000_usize);
    let result = TestRunner::new(config).run(&values, |(parts, limit, step)| {
        let bytes = parts.concat();
        let stream = || InSteps { bytes: &bytes, step };
        for info in [
            decode_all(stream(), LengthDelimitedCodec::u32_be().max_frame_length(limit)),
            decode_all(stream(), LengthDelimitedCodec::varint().max_frame_length(limit)),
            decode_all(stream(), NetstringCodec::new().max_frame_length(limit)),
            decode_all(stream(), LinesCodec::new().max_frame_length(limit)),
            decode_all(stream(), DelimiterCodec::new(",").max_frame_length(limit)),
            decode_all(stream(), WholeStreamCodec::new().max_frame_length(limit)),
            decode_all(stream(), FixedLengthCodec::new(limit)),
        ] {
            prop_assert!(info.bytes_max <= limit as u64 + CONSTANT, "{:?}", info);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

// If each byte made the decoder look at all before it, this would take an hour.
fn one_byte_at_a_time_is_searched_once() {
    let body = vec![b'x'; 1_000_000];
    let line = [&body[..], b"\n"].concat();
    let length = [&1_000_000_u32.to_be_bytes()[..], &body].concat();
    let bytewise = |bytes| InSteps { bytes, step: 1 };
    let mut lines = Framed::new(bytewise(&line), LinesCodec::new().max_frame_length(LIMIT));
    assert_eq!(lines.next_ref().unwrap().unwrap().len(), body.len());
    let mut parts = Framed::new(bytewise(&line), DelimiterCodec::new("x\n").max_frame_length(LIMIT));
    assert_eq!(parts.next_ref().unwrap().unwrap().len(), body.len() - 1);
    let mut lengths = Framed::new(bytewise(&length), LengthDelimitedCodec::u32_be());
    assert_eq!(lengths.next_ref().unwrap().unwrap().len(), body.len());
}
