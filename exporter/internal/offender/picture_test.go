package offender

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the picture of docs/score.md anew")

// The picture in docs/score.md is drawn by the code it is about.
func TestPicture(t *testing.T) {
	const file = "../../../docs/img/score-decay.svg"
	got := picture()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || string(want) != got {
		t.Errorf("%s is not what the code draws (-update draws it): %v", file, err)
	}
}

func picture() string {
	const width, height, left, top, right, bottom, days = 720, 360, 56, 24, 24, 48, 30
	x := func(d float64) float64 { return left + d/days*(width-left-right) }
	y := func(score float64) float64 { return top + (100-score)/100*(height-top-bottom) }
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img">`+"\n", width, height)
	s.WriteString("<title>How the score of idle ids decays over 30 days</title>\n")
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	for score := 0; score <= 100; score += 25 {
		fmt.Fprintf(&s, `<path d="M%d %.1fH%d" stroke="#dddddd"/><text x="%d" y="%.1f" text-anchor="end" fill="#444444">%d</text>`+"\n", left, y(float64(score)), width-right, left-8, y(float64(score))+4, score)
	}
	for d := 0; d <= days; d += 7 {
		fmt.Fprintf(&s, `<path d="M%.1f %dV%d" stroke="#eeeeee"/><text x="%.1f" y="%d" text-anchor="middle" fill="#444444">%d d</text>`+"\n", x(float64(d)), top, height-bottom, x(float64(d)), height-bottom+18, d)
	}
	fmt.Fprintf(&s, `<text x="%d" y="%d" text-anchor="middle" fill="#444444">days since the last ban</text>`+"\n", (left+width-right)/2, height-8)
	b := NewBoard(Options{})
	for i := range 8 {
		b.Ban(BanFact{Place: Place{Host: fmt.Sprint(i), Jail: "j"}, ID: "one ban on each of 8 hosts", At: day})
	}
	for _, host := range []string{"a", "b", "c"} {
		b.Ban(BanFact{Place: Place{Host: host, Jail: "j"}, ID: "one ban on each of 3 hosts", At: day})
	}
	for i := range 4 {
		b.Ban(BanFact{Place: Place{Host: "a", Jail: "j"}, ID: "4 bans on one host, back at once each time", At: day.Add(time.Duration(i) * time.Millisecond), HasDelay: i > 0})
	}
	b.Ban(BanFact{Place: Place{Host: "a", Jail: "j"}, ID: "one ban", At: day})
	for i, r := range b.Rank(day, 4).Rows {
		color := []string{"#7b3294", "#d95f02", "#1b6ca8", "#2e7d32"}[i]
		fmt.Fprintf(&s, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, color)
		for h := 0; h <= days*24; h += 12 {
			at, _ := b.Of(r.ID, day.Add(time.Duration(h)*time.Hour))
			fmt.Fprintf(&s, "%.1f,%.1f ", x(float64(h)/24), y(at.Score))
		}
		s.WriteString(`"/>` + "\n")
		fmt.Fprintf(&s, `<path d="M%d %dh24" stroke="%s" stroke-width="2"/><text x="%d" y="%d" fill="#222222">%s: %.0f</text>`+"\n", width-340, top+14+18*i, color, width-310, top+18+18*i, r.ID, r.Score)
	}
	s.WriteString("</svg>\n")
	return s.String()
}
