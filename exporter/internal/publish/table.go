package publish

import (
	"bufio"
	"encoding/csv"
	"io"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// Table is the rows of one kind, ready for any form.
type Table struct {
	Kind string
	// NameSource puts the column `source` first; set with more than one source.
	NameSource bool
	// Explain adds the columns `detail` and `evidence`: the log's lines that
	// prove a row.
	Explain bool
	// Redact, where set, hides whom the rows are about.
	Redact *Redactor
	Rows   iter.Seq[Row]
}

func (t Table) columns() []string {
	names := columns[t.Kind]
	if t.NameSource {
		names = append([]string{"source"}, names...)
	}
	if t.Explain {
		names = append(slices.Clip(names), "detail", "evidence")
	}
	return names
}

// values gives the values of a row that Redact has been at.
func (t Table) values(r Row) []Value {
	values := r.Values
	if t.NameSource {
		values = append([]Value{textValue(r.Source)}, values...)
	}
	if t.Explain {
		values = append(slices.Clip(values), textValue(r.Detail), proofValue(r.Proof))
	}
	return values
}

// proofValue is the lines of a proof, one beneath the other.
func proofValue(proof []correlate.Line) Value {
	var b strings.Builder
	for i, l := range proof {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(l.Time.UTC().Format(timeForm) + " " + l.Text)
	}
	return textValue(b.String())
}

// appendProof appends the lines of a proof as a list of objects.
func appendProof(b []byte, proof []correlate.Line) []byte {
	b = append(b, '[')
	for i, l := range proof {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"time":`...)
		b = appendJSONString(b, l.Time.UTC().Format(timeForm))
		b = append(b, `,"line":`...)
		b = append(appendJSONString(b, textValue(l.Text).s), '}')
	}
	return append(b, ']')
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
		for i, v := range t.values(t.Redact.row(t.Kind, r)) {
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

// WriteJSONArray writes one array of the objects that WriteJSON writes.
func WriteJSONArray(w io.Writer, t Table) error {
	bw := bufio.NewWriter(w)
	between := "[\n"
	var line []byte
	for r := range t.Rows {
		line = t.AppendJSON(append(line[:0], between...), r)
		if _, err := bw.Write(line); err != nil {
			return err
		}
		between = ",\n"
	}
	end := "\n]\n"
	if between == "[\n" {
		end = "[]\n"
	}
	_, _ = bw.WriteString(end) // its error is the flush's
	return bw.Flush()
}

// AppendJSON appends one row as a JSON object, as WriteJSON writes it.
func (t Table) AppendJSON(b []byte, r Row) []byte {
	names := t.columns()
	r = t.Redact.row(t.Kind, r)
	b = append(b, '{')
	for i, v := range t.values(r) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendJSONString(b, names[i])
		b = append(b, ':')
		if t.Explain && i == len(names)-1 {
			b = appendProof(b, r.Proof)
			continue
		}
		b = v.appendJSON(b)
	}
	return append(b, '}')
}

// WriteTable writes aligned columns for a person: numbers to the right, long
// texts cut, unknown as a dash, and nothing that a terminal would obey.
func WriteTable(w io.Writer, t Table) error {
	g := grid{}
	short := t
	short.Explain = false // the lines stand beneath their row
	g.header = short.columns()
	for r := range t.Rows {
		r = t.Redact.row(t.Kind, r)
		values := short.values(r)
		if t.Explain {
			g.notes = append(g.notes, notes(r))
		}
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

// notes are what stands beneath a row to explain it.
func notes(r Row) (out []string) {
	if r.Detail != "" {
		out = append(out, visible(r.Detail))
	}
	for _, l := range r.Proof {
		out = append(out, visible(l.Text))
	}
	return out
}

// grid is cells in columns that are as wide as their widest cell.
type grid struct {
	header []string
	right  []int // columns to align to the right
	rows   [][]string
	notes  [][]string // beneath each row, where there are any
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
	for i, row := range g.rows {
		g.writeRow(bw, widths, row)
		if i < len(g.notes) {
			for _, note := range g.notes[i] {
				_, _ = bw.WriteString("    | " + note + "\n")
			}
		}
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
