//! Reads and writes `traceparent`, the header by which a trace goes on in the next service. Pure.
//!
//! The format is that of W3C Trace Context, <https://www.w3.org/TR/trace-context/>: version 00 is read and written, and of higher
//! versions the parts that they share with 00. A value that breaks a rule counts as none.

use std::fmt;
use std::num::NonZeroU64;

/// Characters of a value of version 00, such as `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
const LENGTH: usize = 55;
/// The flag that says that the caller has sampled the trace.
const SAMPLED: u8 = 1;
/// The flag that says that the end of the trace's id is random.
const RANDOM: u8 = 2;

/// The id of a trace. Never all zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

/// The id of a span within its trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpanId(NonZeroU64);

/// A span as other services name it: what is sent along, so that theirs become its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace that the span belongs to.
    pub trace_id: TraceId,
    /// The span itself.
    pub span_id: SpanId,
    flags: u8,
}

impl TraceId {
    /// The id that consists of these random bits.
    pub(crate) fn of(random: u128) -> Self {
        Self(random.max(1).to_be_bytes())
    }

    /// The id as it stands in `traceparent`, but binary.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    /// The id that consists of these random bits.
    pub(crate) fn of(random: u64) -> Self {
        Self(NonZeroU64::new(random).unwrap_or(NonZeroU64::MIN))
    }

    /// The id as it stands in `traceparent`, but binary.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl TraceContext {
    /// Reads the value of a `traceparent`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        if [2, 35, 52].iter().any(|&at| known[at] != b'-') {
            return None;
        }
        // A higher version may add parts behind another hyphen. 00 has none, and ff is no version.
        match u8::try_from(hex(&known[..2])?).ok()? {
            0 if !rest.is_empty() => return None,
            0xff => return None,
            _ if rest.first().is_some_and(|next| *next != b'-') => return None,
            _ => {}
        }
        let trace_id = hex(&known[3..35]).filter(|id| *id != 0)?;
        let span_id = NonZeroU64::new(u64::try_from(hex(&known[36..52])?).ok()?)?;
        let flags = u8::try_from(hex(&known[53..])?).ok()?;
        // The other flags have no meaning yet, and may not be passed on.
        Some(Self { trace_id: TraceId::of(trace_id), span_id: SpanId(span_id), flags: flags & (SAMPLED | RANDOM) })
    }

    /// The first span of a new trace, which is sampled.
    pub(crate) fn first(trace_id: TraceId, span_id: SpanId) -> Self {
        Self { trace_id, span_id, flags: SAMPLED | RANDOM }
    }

    /// A child of this span.
    pub(crate) fn child(self, span_id: SpanId) -> Self {
        Self { span_id, ..self }
    }

    /// Whether spans of this trace are to be sent to a collector.
    pub(crate) fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub(crate) fn flags(self) -> u8 {
        self.flags
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The value of a `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// The number that at most 32 digits stand for. The specification permits no upper case.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn read(text: &str) -> Option<String> {
        TraceContext::parse(text.as_bytes()).map(|context| context.to_string())
    }

    #[test]
    fn a_valid_value_is_read_and_written_as_version_00_with_the_known_flags() {
        for (version, flags, more, written) in [
            ("00", "00", "", "00"),
            ("00", "01", "", "01"),
            ("00", "02", "", "02"),
            ("00", "03", "", "03"),
            ("00", "ff", "", "03"),
            ("00", "fe", "", "02"),
            ("01", "01", "", "01"),
            ("cc", "05", "", "01"),
            ("cc", "01", "-", "01"),
            ("fe", "01", "-what-the-future-will-be-like", "01"),
        ] {
            let given = format!("{version}-{TRACE}-{SPAN}-{flags}{more}");
            assert_eq!(read(&given), Some(format!("00-{TRACE}-{SPAN}-{written}")), "{given}");
        }
    }

    #[test]
    fn what_breaks_a_rule_counts_as_none() {
        let valid = format!("00-{TRACE}-{SPAN}-01");
        let zeros = |length: usize| "0".repeat(length);
        for broken in [
            String::new(),
            "00".into(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-011"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("000-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &SPAN[1..]),
            format!("00-{TRACE}-{SPAN}0-01"),
            // All zero.
            format!("00-{}-{SPAN}-01", zeros(32)),
            format!("00-{TRACE}-{}-01", zeros(16)),
            // Upper case, in each part.
            format!("0A-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0A"),
            // No hexadecimal digits.
            format!("00-{}-{SPAN}-01", TRACE.replace('f', "g")),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00-{}é-{SPAN}-01", &TRACE[2..]),
            // No version, and versions with too much behind them.
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("01-{TRACE}-{SPAN}-01more"),
            // Other separators, blanks, and two values in one.
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{TRACE}-{SPAN}_01"),
            format!(" {valid}"),
            format!("{valid} "),
            format!("{valid},{valid}"),
            format!("{valid}, {valid}"),
            format!("{valid}{valid}"),
        ] {
            assert_eq!(read(&broken), None, "{broken:?}");
        }
        assert_eq!(read(&valid), Some(valid));
    }

    #[test]
    fn a_child_has_the_trace_and_the_flags_of_its_parent() {
        let parent = TraceContext::parse(format!("00-{TRACE}-{SPAN}-01").as_bytes()).unwrap();
        assert_eq!(parent.child(SpanId::of(0x2a)).to_string(), format!("00-{TRACE}-000000000000002a-01"));
    }

    #[test]
    fn no_random_bits_make_an_id_that_is_all_zero() {
        let context = TraceContext::first(TraceId::of(0), SpanId::of(0));
        assert!(context.is_sampled());
        assert_eq!(TraceContext::parse(context.to_string().as_bytes()), Some(context));
    }
}
