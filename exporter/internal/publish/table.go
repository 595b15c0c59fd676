package publish

import (
	"bufio"
	"encoding/csv"
	"io"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"
)

// Table is the rows of one kind, ready for any form.
type Table struct {
	Kind string
	// NameSource puts the column `source` first; set with more than one source.
	NameSource bool
	Rows       iter.Seq[Row]
}

func (t Table) columns() []string {
	if t.NameSource {
		return append([]string{"source"}, columns[t.Kind]...)
	}
	return columns[t.Kind]
}

func (t Table) values(r Row) []Value {
	if t.NameSource {
		return append([]Value{textValue(r.Source)}, r.Values...)
	}
	return r.Values
}

// WriteCSV writes a header and one line for each row. Unknown is an empty cell.
func WriteCSV(w io.Writer, t Table) error {
	cw := csv.NewWriter(w)
	header := t.columns()
	if err := cw.Write(header); err != nil {
		return err
	}
	cells := make([]string, len(header))
	for r := range t.Rows {
		for i, v := range t.values(r) {
			cells[i] = v.csv()
		}
		if err := cw.Write(cells); err != nil {
			return err
		}
	}
	cw.Flush()
	return cw.Error()
}

// WriteJSON writes one object a line, its keys in the order of the columns.
// Unknown texts and times are empty strings, unknown numbers and booleans null.
func WriteJSON(w io.Writer, t Table) error {
	bw := bufio.NewWriter(w)
	var line []byte
	for r := range t.Rows {
		line = append(t.AppendJSON(line[:0], r), '\n')
		if _, err := bw.Write(line); err != nil {
			return err
		}
	}
	return bw.Flush()
}

// AppendJSON appends one row as a JSON object, as WriteJSON writes it.
func (t Table) AppendJSON(b []byte, r Row) []byte {
	names := t.columns()
	b = append(b, '{')
	for i, v := range t.values(r) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendJSONString(b, names[i])
		b = append(b, ':')
		b = v.appendJSON(b)
	}
	return append(b, '}')
}

// WriteTable writes aligned columns for a person: numbers to the right, long
// texts cut, unknown as a dash, and nothing that a terminal would obey.
func WriteTable(w io.Writer, t Table) error {
	g := grid{header: t.columns()}
	for r := range t.Rows {
		values := t.values(r)
		cells := make([]string, len(values))
		for i, v := range values {
			cells[i] = v.cell()
			if v.form == literal {
				g.rightAlign(i)
			}
		}
		g.rows = append(g.rows, cells)
	}
	return g.write(w)
}

// grid is cells in columns that are as wide as their widest cell.
type grid struct {
	header []string
	right  []int // columns to align to the right
	rows   [][]string
}

func (g *grid) rightAlign(column int) {
	if !slices.Contains(g.right, column) {
		g.right = append(g.right, column)
	}
}

func (g *grid) write(w io.Writer) error {
	widths := make([]int, len(g.header))
	for _, row := range append([][]string{g.header}, g.rows...) {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	bw := bufio.NewWriter(w)
	g.writeRow(bw, widths, g.header)
	for _, row := range g.rows {
		g.writeRow(bw, widths, row)
	}
	return bw.Flush()
}

// writeRow leaves errors to the writer's Flush.
func (g *grid) writeRow(w *bufio.Writer, widths []int, row []string) {
	var b strings.Builder
	for i, c := range row {
		pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
		if slices.Contains(g.right, i) {
			c, pad = pad+c, ""
		}
		if i > 0 {
			b.WriteString("  ")
		}
		b.WriteString(c + pad)
	}
	_, _ = w.WriteString(strings.TrimRight(b.String(), " ") + "\n")
}
