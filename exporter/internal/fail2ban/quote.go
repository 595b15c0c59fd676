package fail2ban

import (
	"bytes"
	"unicode/utf8"
)

// literal reads a text in quotes that reaches to the end: Python's repr of a
// name, or the name that 0.8 and 0.9 put between quotes by hand, in which a
// quote may stand as it is.
func literal(b []byte) (string, bool) {
	n := len(b)
	if n < 3 || n > MaxJail+2 || b[0] != '\'' && b[0] != '"' || b[n-1] != b[0] {
		return "", false
	}
	name, ok := unescapePython(b[1 : n-1])
	return name, ok && len(name) <= MaxJail
}

// quoted takes a Python string literal from the front: 'x' or, where the text
// holds a quote, "x".
func quoted(b []byte) (text string, ok bool) {
	if len(b) < 3 || b[0] != '\'' && b[0] != '"' {
		return "", false
	}
	end := 1
	for end < len(b) && b[end] != b[0] {
		if b[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(b) || end == 1 || end > MaxID {
		return "", false
	}
	return unescapePython(b[1:end])
}

// unescapePython resolves what Python's repr escapes. It copies only where
// there is something to resolve; an escape that it does not know stays.
func unescapePython(b []byte) (string, bool) {
	if bytes.IndexByte(b, '\\') < 0 {
		return alias(b), true
	}
	raw := make([]byte, 0, len(b)) // with \x80 to \xff as bytes, as Python 2 means them
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' || i+1 == len(b) {
			raw = append(raw, b[i])
			continue
		}
		i++
		switch c := b[i]; c {
		case '\'', '"', '\\':
			raw = append(raw, c)
		case 'n':
			raw = append(raw, '\n')
		case 'r':
			raw = append(raw, '\r')
		case 't':
			raw = append(raw, '\t')
		case 'x', 'u', 'U':
			width := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
			r, ok := hexDigits(b[i+1:], width)
			if !ok {
				raw = append(raw, '\\', c)
				continue
			}
			if i += width; c == 'x' {
				raw = append(raw, byte(r))
			} else {
				raw = utf8.AppendRune(raw, r)
			}
		default:
			raw = append(raw, '\\', c)
		}
	}
	if !utf8.Valid(raw) {
		raw = latin1(raw)
	}
	return alias(raw), len(raw) > 0
}

// latin1 takes bytes that are no UTF-8 for code points, as Python 3 means
// \x80 to \xff.
func latin1(b []byte) []byte {
	out := make([]byte, 0, 2*len(b))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			r = rune(b[0])
		}
		out, b = utf8.AppendRune(out, r), b[n:]
	}
	return out
}

// hexDigits reads exactly n hexadecimal digits.
func hexDigits(b []byte, n int) (rune, bool) {
	if len(b) < n {
		return 0, false
	}
	v := uint32(0)
	for _, c := range b[:n] {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint32(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uint32(c-'a'+10)
		case c >= 'A' && c <= 'F':
			v = v<<4 | uint32(c-'A'+10)
		default:
			return 0, false
		}
	}
	return rune(v & 0x7fffffff), true
}
