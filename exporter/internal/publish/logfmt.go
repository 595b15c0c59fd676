package publish

import (
	"fmt"
	"strings"
	"unicode/utf16"
)

// appendLogfmt appends ` name=value`. Loki and the loggers of the logfmt family
// read a quoted value as a JSON string, so the escapes are JSON's.
func appendLogfmt(b []byte, name, value string) []byte {
	b = append(b, ' ')
	b = append(b, name...)
	b = append(b, '=')
	if !strings.ContainsFunc(value, needsQuotes) {
		return append(b, value...)
	}
	b = append(b, '"')
	for _, r := range value {
		b = appendEscaped(b, r)
	}
	return append(b, '"')
}

func needsQuotes(r rune) bool {
	return r <= ' ' || r == '=' || r == '"' || r == '\\' || unprintable(r)
}

func appendEscaped(b []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case r == '\n':
		return append(b, `\n`...)
	case r == '\r':
		return append(b, `\r`...)
	case r == '\t':
		return append(b, `\t`...)
	case !unprintable(r):
		return append(b, string(r)...)
	case r > 0xFFFF:
		high, low := utf16.EncodeRune(r)
		return fmt.Appendf(b, `\u%04x\u%04x`, high, low)
	}
	return fmt.Appendf(b, `\u%04x`, r)
}
