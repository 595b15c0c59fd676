package fail2ban

import (
	"bytes"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of wrapped lines.
const (
	// MaxWrapped bounds a line of JSON or logfmt; the message in it is cut at
	// MaxLine.
	MaxWrapped = 64 << 10
	// maxDepth bounds the values in values that are skipped.
	maxDepth = 64
)

// DefaultMessageFields are the fields of a wrapped line that may hold the
// message, the likeliest first.
var DefaultMessageFields = []string{"message", "msg", "log", "line", "MESSAGE", "body", "_entry"}

// wrapped is what a line of JSON or logfmt holds. The texts are raw.
type wrapped struct {
	fields  []string
	rank    int // of the message's field among the fields, len(fields) for none
	message []byte
	thread  []byte // journald's THREAD_NAME
	pid     []byte // journald's _PID
	time    []byte // docker's time, logfmt's ts
	micros  []byte // journald's __REALTIME_TIMESTAMP
}

// unwrap reads a line of JSON or logfmt that holds the message in one of the
// fields; anything else is none.
func unwrap(line []byte, fields []string) (w wrapped, ok bool) {
	w.fields, w.rank = fields, len(fields)
	if line[0] == '{' {
		ok = w.json(line)
	} else {
		ok = w.logfmt(line)
	}
	if !ok || w.rank == len(fields) {
		return w, false
	}
	w.message, ok = unescapeJSON(cutNewline(w.message))
	return w, ok && len(w.message) > 0
}

// stamp is the wrapper's own time, zero for none.
func (w *wrapped) stamp() time.Time {
	if n, ok := bigInt(w.micros); ok {
		return time.UnixMicro(n).UTC()
	}
	t, _ := isoTime(w.time)
	return t
}

// field takes one pair in, the first of each name.
func (w *wrapped) field(key, value []byte) {
	switch string(key) {
	case "THREAD_NAME":
		w.thread = value
	case "_PID":
		w.pid = value
	case "time", "ts", "timestamp":
		w.time = value
	case "__REALTIME_TIMESTAMP":
		w.micros = value
	}
	for i, f := range w.fields[:w.rank] {
		if string(key) == f {
			w.rank, w.message = i, value
			return
		}
	}
}

// json reads the top level of an object.
func (w *wrapped) json(line []byte) bool {
	s := scanner{b: line[1:]}
	for first := true; ; first = false {
		s.space()
		if first && s.take('}') {
			return false
		}
		key, ok := s.text()
		s.space()
		if !ok || !s.take(':') {
			return false
		}
		s.space()
		if len(s.b) > 0 && s.b[0] == '"' {
			value, ok := s.text()
			if !ok {
				return false
			}
			w.field(key, value)
		} else if !s.skip() {
			return false
		}
		s.space()
		if s.take(',') {
			continue
		}
		closed := s.take('}')
		s.space()
		return closed && len(s.b) == 0
	}
}

// logfmt reads "key=value key="a value"" and nothing else: a word without
// "=" says that the line is no logfmt.
func (w *wrapped) logfmt(line []byte) bool {
	s := scanner{b: line}
	for {
		s.space()
		if len(s.b) == 0 {
			return true
		}
		n := 0
		for n < len(s.b) && isKey(s.b[n]) {
			n++
		}
		if n == 0 || n == len(s.b) || s.b[n] != '=' {
			return false
		}
		key := s.b[:n]
		s.b = s.b[n+1:]
		value, ok := s.value()
		if !ok {
			return false
		}
		w.field(key, value)
	}
}

func isKey(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-'
}

// scanner reads JSON and logfmt from the front.
type scanner struct{ b []byte }

func (s *scanner) space() {
	for len(s.b) > 0 && (s.b[0] == ' ' || s.b[0] == '\t' || s.b[0] == '\r' || s.b[0] == '\n') {
		s.b = s.b[1:]
	}
}

func (s *scanner) take(c byte) bool {
	if len(s.b) == 0 || s.b[0] != c {
		return false
	}
	s.b = s.b[1:]
	return true
}

// text reads a text in double quotes and leaves its escapes as they are.
func (s *scanner) text() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	for i := 0; i < len(s.b); i++ {
		switch s.b[i] {
		case '\\':
			i++
		case '"':
			text := s.b[:i]
			s.b = s.b[i+1:]
			return text, true
		}
	}
	return nil, false
}

// value reads logfmt's value, in quotes or up to the next space.
func (s *scanner) value() ([]byte, bool) {
	if len(s.b) > 0 && s.b[0] == '"' {
		text, ok := s.text()
		return text, ok && (len(s.b) == 0 || s.b[0] == ' ')
	}
	n := bytes.IndexByte(s.b, ' ')
	if n < 0 {
		n = len(s.b)
	}
	text := s.b[:n]
	s.b = s.b[n:]
	return text, bytes.IndexByte(text, '"') < 0 && bytes.IndexByte(text, '\\') < 0
}

// skip passes a value that is no text: a number, a word, an array, an object.
func (s *scanner) skip() bool {
	for depth := 0; len(s.b) > 0; {
		switch c := s.b[0]; c {
		case '{', '[':
			if depth++; depth > maxDepth {
				return false
			}
			s.b = s.b[1:]
		case '}', ']':
			if depth == 0 {
				return false
			}
			s.b = s.b[1:]
			depth--
		case '"':
			if _, ok := s.text(); !ok {
				return false
			}
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return false
			}
			s.b = s.b[1:]
		default:
			s.word()
		}
		if depth == 0 {
			return true
		}
	}
	return false
}

// word passes a number, true, false or null.
func (s *scanner) word() {
	n := 1
	for n < len(s.b) && (isKey(s.b[n]) || s.b[n] == '+') {
		n++
	}
	s.b = s.b[n:]
}

// bigInt reads a whole number.
func bigInt(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	n, err := strconv.ParseInt(alias(b), 10, 64)
	return n, err == nil
}

// cutNewline cuts the escaped end of line that docker keeps, so that most
// messages need no copy.
func cutNewline(b []byte) []byte {
	for {
		n := len(b)
		if n < 2 || b[n-2] != '\\' || b[n-1] != 'n' && b[n-1] != 'r' {
			return b
		}
		slashes := 0
		for i := n - 2; i >= 0 && b[i] == '\\'; i-- {
			slashes++
		}
		if slashes%2 == 0 {
			return b
		}
		b = b[:n-2]
	}
}

// unescapeJSON resolves the escapes of JSON, which are logfmt's too. It copies
// only where there are any.
func unescapeJSON(b []byte) ([]byte, bool) {
	if bytes.IndexByte(b, '\\') < 0 {
		return b, true
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			out = append(out, b[i])
			continue
		}
		if i++; i == len(b) {
			return nil, false
		}
		if b[i] != 'u' {
			c, ok := simpleEscape(b[i])
			if !ok {
				return nil, false
			}
			out = append(out, c)
			continue
		}
		r, ok := hexDigits(b[i+1:], 4)
		if !ok {
			return nil, false
		}
		i += 4
		if utf16.IsSurrogate(r) {
			low := rune(utf8.RuneError)
			if len(b) > i+6 && b[i+1] == '\\' && b[i+2] == 'u' {
				low, _ = hexDigits(b[i+3:], 4)
			}
			if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
				i += 6
			}
		}
		out = utf8.AppendRune(out, r)
	}
	return out, true
}

// simpleEscape is what one letter after a backslash means.
func simpleEscape(c byte) (byte, bool) {
	switch c {
	case '"', '\\', '/', '\'':
		return c, true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	}
	return 0, false
}
