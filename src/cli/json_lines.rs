//! Reads messages that stand one in a line, in bounded memory, from a file or from standard input.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read};

/// Bytes that are read at a time.
const BUFFER: usize = 64 * 1024;

/// A line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1; blank lines count.
    pub(super) number: u64,
    /// Without its line break. Of a line that is too long only the beginning, which is too long as well.
    pub(super) body: Vec<u8>,
    /// Where the line ends: bytes from the beginning of the input.
    pub(super) end: u64,
}

/// The lines of an input.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    /// Bytes that a line may have.
    most: usize,
    number: u64,
    end: u64,
    /// The rest of the last line was too long and is not read yet.
    in_long_line: bool,
}

impl<R: Read> Lines<R> {
    /// The lines that follow in `input`, each of at most `most` bytes without its line break.
    pub(super) fn of(input: R, most: usize) -> Self {
        Self { input: BufReader::with_capacity(BUFFER, input), most, number: 0, end: 0, in_long_line: false }
    }

    /// Waits for the next line, and takes those with it that have been read already. Empty at the end.
    ///
    /// # Errors
    ///
    /// The input cannot be read.
    pub(super) fn next_batch(&mut self) -> io::Result<Vec<Line>> {
        let mut batch = Vec::new();
        // A further line, if it is not complete, may keep us waiting, or need much memory.
        while batch.is_empty() || self.input.buffer().contains(&b'\n') {
            match self.read_line()? {
                Reading::Line(line) => batch.push(line),
                Reading::Nothing => {}
                Reading::End => break,
            }
        }
        Ok(batch)
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    ///
    /// The input cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            match self.read_line()? {
                Reading::Line(line) => return Ok(Some(line)),
                Reading::Nothing => {}
                Reading::End => return Ok(None),
            }
        }
    }

    /// Reads up to the next line break, and not beyond it: what follows may not be there yet.
    fn read_line(&mut self) -> io::Result<Reading> {
        if std::mem::take(&mut self.in_long_line) {
            while self.read_part(&mut Vec::new(), usize::MAX)? == Part::Some {}
            return Ok(Reading::Nothing);
        }
        let mut body = Vec::new();
        // One byte more than a line of the greatest length that ends with CR LF.
        let longest = self.most + 2;
        let mut part = Part::Some;
        while part == Part::Some && body.len() < longest {
            part = self.read_part(&mut body, longest)?;
        }
        if part == Part::EndOfInput && body.is_empty() {
            return Ok(Reading::End);
        }
        self.number += 1;
        self.in_long_line = part == Part::Some;
        if part == Part::EndOfLine && body.last() == Some(&b'\r') {
            body.pop();
        }
        if body.iter().all(u8::is_ascii_whitespace) && !self.in_long_line {
            return Ok(Reading::Nothing);
        }
        Ok(Reading::Line(Line { number: self.number, body, end: self.end }))
    }

    /// Adds what was read already to a line's body, or what is read now: until its end, or until the body has `longest` bytes.
    fn read_part(&mut self, body: &mut Vec<u8>, longest: usize) -> io::Result<Part> {
        let read = loop {
            match self.input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if read.is_empty() {
            return Ok(Part::EndOfInput);
        }
        let room = &read[..read.len().min(longest - body.len())];
        let (text, used, part) = match room.iter().position(|byte| *byte == b'\n') {
            Some(at) => (&room[..at], at + 1, Part::EndOfLine),
            None => (room, room.len(), Part::Some),
        };
        body.extend_from_slice(text);
        self.input.consume(used);
        self.end += used as u64;
        Ok(part)
    }
}

/// How far a line was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Some,
    EndOfLine,
    EndOfInput,
}

/// What was read up to a line break.
enum Reading {
    Line(Line),
    /// A blank line, or the rest of one that was too long.
    Nothing,
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its parts one at a time, as a pipe does.
    struct Pipe(Vec<Vec<u8>>);

    impl Read for Pipe {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            buffer[..part.len()].copy_from_slice(&part);
            Ok(part.len())
        }
    }

    fn pipe(parts: &[&str]) -> Pipe {
        Pipe(parts.iter().map(|part| part.as_bytes().to_vec()).collect())
    }

    fn all(input: impl Read, most: usize) -> Vec<(u64, String, u64)> {
        let mut lines = Lines::of(input, most);
        let next = || lines.next().unwrap();
        let line = |line: Line| (line.number, String::from_utf8(line.body).unwrap(), line.end);
        std::iter::from_fn(next).map(line).collect()
    }

    fn line(number: u64, body: &str, end: u64) -> (u64, String, u64) {
        (number, body.to_owned(), end)
    }

    #[test]
    fn line_breaks_of_every_kind_and_blank_lines_are_left_out() {
        let input = pipe(&["a\n\n \t\r\nb", "b\r", "\n", "\r\n", " c "]);
        assert_eq!(all(input, 3), [line(1, "a", 2), line(4, "bb", 11), line(6, " c ", 16)]);
        assert_eq!(all(pipe(&[]), 3), []);
        assert_eq!(all(pipe(&["\n\n"]), 3), []);
        assert_eq!(all(pipe(&["a\rb\n"]), 3), [line(1, "a\rb", 4)]);
    }

    #[test]
    fn of_a_line_that_is_too_long_only_so_much_is_kept_that_it_is_still_too_long() {
        let input = pipe(&["123\r\n1234\n", "12345", "67890", "123\nnext\n", "     \n123"]);
        let expected = [
            line(1, "123", 5),
            line(2, "1234", 10),
            line(3, "12345", 15),
            line(4, "next", 29),
            // A blank line may be too long, too.
            line(5, "     ", 34),
            line(6, "123", 38),
        ];
        assert_eq!(all(input, 3), expected);
        assert_eq!(all(pipe(&["12345", "6"]), 3), [line(1, "12345", 5)]);
    }

    #[test]
    fn a_batch_has_what_is_there_and_waits_for_nothing_more() {
        let mut lines = Lines::of(pipe(&["1\n2\n3", "\n4\n", "5"]), 10);
        let mut batch = || lines.next_batch().unwrap().iter().map(|line| line.number).collect::<Vec<_>>();
        assert_eq!([batch(), batch(), batch(), batch()], [vec![1, 2], vec![3, 4], vec![5], vec![]]);
    }

    #[test]
    fn a_batch_does_not_wait_for_what_comes_after_a_blank_line_or_after_a_line_that_is_too_long() {
        let mut lines = Lines::of(pipe(&["1\n\n \r\n", "12345\n", "6\n\n", "\n"]), 2);
        let mut batch = || lines.next_batch().unwrap().iter().map(|line| line.number).collect::<Vec<_>>();
        assert_eq!([batch(), batch(), batch(), batch()], [vec![1], vec![4], vec![5], vec![]]);
    }
}
