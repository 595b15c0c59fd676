package publish

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// form says how a value is to be treated; an empty value is unknown in all.
type form uint8

const (
	// text comes from a log or a label and may be hostile.
	text form = iota
	// word is one of our own: a closed set's word or a time.
	word
	// literal is a number or a boolean: unquoted in JSON, null where unknown.
	literal
)

// Value is one cell of a row.
type Value struct {
	s    string
	form form
}

// String is the value as it stands in CSV, without what protects a reader.
func (v Value) String() string { return v.s }

const timeForm = "2006-01-02T15:04:05.000Z07:00"

func timeValue(t time.Time) Value {
	if t.IsZero() {
		return Value{form: word}
	}
	return Value{s: t.UTC().Format(timeForm), form: word}
}

func endValue(e correlate.End) Value {
	if e.Never {
		return Value{s: "never", form: word}
	}
	return timeValue(e.At)
}

func textValue(s string) Value { return Value{s: strings.ToValidUTF8(s, "\uFFFD"), form: text} }

func wordValue[S ~string](s S) Value { return Value{s: string(s), form: word} }

func intValue[N int | uint64](n N) Value {
	if n < 0 {
		return Value{s: strconv.FormatInt(int64(n), 10), form: literal}
	}
	return Value{s: strconv.FormatUint(uint64(n), 10), form: literal}
}

func boolValue(b bool) Value { return Value{s: strconv.FormatBool(b), form: literal} }

// maybe gives a value that the log may not tell.
func maybe[T any](m correlate.Maybe[T], value func(T) Value) Value {
	if !m.OK {
		return Value{form: literal}
	}
	return value(m.V)
}

// secondsValue is a span in seconds, with milliseconds where there are any.
func secondsValue(d time.Duration) Value {
	sign, ms := "", d.Milliseconds()
	if ms < 0 {
		sign, ms = "-", -ms
	}
	s := sign + strconv.FormatInt(ms/1000, 10)
	if ms%1000 != 0 {
		s += "." + strings.TrimRight(strconv.FormatInt(1000+ms%1000, 10)[1:], "0")
	}
	return Value{s: s, form: literal}
}

// banTimeValue is a ban time in seconds; any negative one is a permanent ban
// and written as fail2ban writes it, -1.
func banTimeValue(d time.Duration) Value {
	if d < 0 {
		return Value{s: "-1", form: literal}
	}
	return secondsValue(d)
}

func floatValue(f float64) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Value{form: literal}
	}
	return Value{s: strconv.FormatFloat(math.Round(f*1000)/1000, 'f', -1, 64), form: literal}
}

// shareValue is a part of a whole, to three digits however small it is.
func shareValue(f float64) Value {
	return Value{s: strconv.FormatFloat(f, 'g', 3, 64), form: literal}
}

// csv is the value as a CSV cell. A spreadsheet takes a text for a formula by
// its first character; an apostrophe there makes it a text for good.
func (v Value) csv() string {
	if v.form == text && v.s != "" && strings.IndexByte("=+-@\t\r\n", v.s[0]) >= 0 {
		return "'" + v.s
	}
	return v.s
}

// appendJSON appends the value as JSON: unknown numbers and booleans are null,
// unknown texts and times are empty strings.
func (v Value) appendJSON(b []byte) []byte {
	if v.form == literal {
		if v.s == "" {
			return append(b, "null"...)
		}
		return append(b, v.s...)
	}
	return appendJSONString(b, v.s)
}

func appendJSONString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == 0x7f {
			quoted, _ := json.Marshal(s) // a string cannot fail
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// cell is the value for a person's terminal.
func (v Value) cell() string {
	switch {
	case v.s == "":
		return "-"
	case v.form == text:
		return cut(visible(v.s), maxCell)
	}
	return v.s
}

// maxCell is how many characters of a text a table shows.
const maxCell = 64

func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// visible writes as escapes whatever does not print: control characters and
// with them terminal sequences, and what turns the direction of writing.
func visible(s string) string {
	s = valid(s) // a bare byte, too, may be obeyed: 0x9b begins a sequence as ESC [ does
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unprintable(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Visible makes a text harmless to show: valid, and whatever does not print is
// written as an escape.
func Visible(s string) string { return visible(strings.ToValidUTF8(s, "\uFFFD")) }

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
