package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Sample is one value of a metric.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// ParseMetrics reads a page in Prometheus' text format.
func ParseMetrics(page string) ([]Sample, error) {
	var samples []Sample
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s, err := parseSample(line)
		if err != nil {
			return nil, fmt.Errorf("lab: metric %q: %w", line, err)
		}
		samples = append(samples, s)
	}
	return samples, nil
}

// parseSample reads `name{label="value",…} number [time]`.
func parseSample(line string) (Sample, error) {
	end := strings.IndexAny(line, "{ ")
	if end < 0 {
		return Sample{}, fmt.Errorf("no value")
	}
	s := Sample{Name: line[:end], Labels: map[string]string{}}
	rest := line[end:]
	if rest[0] == '{' {
		rest = rest[1:]
		for !strings.HasPrefix(rest, "}") {
			name, after, ok := strings.Cut(rest, "=")
			if !ok {
				return s, fmt.Errorf("a label without a value")
			}
			quoted, err := strconv.QuotedPrefix(after)
			if err != nil {
				return s, err
			}
			value, err := strconv.Unquote(quoted)
			if err != nil {
				return s, err
			}
			s.Labels[name] = value
			rest = strings.TrimPrefix(after[len(quoted):], ",")
		}
		rest = rest[1:]
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return s, fmt.Errorf("no value")
	}
	value, err := strconv.ParseFloat(fields[0], 64)
	s.Value = value
	return s, err
}

// Scrape reads the metrics of a server.
func Scrape(ctx context.Context, url string) ([]Sample, error) {
	page, err := Get(ctx, url)
	if err != nil {
		return nil, err
	}
	return ParseMetrics(string(page))
}

// Sum adds up the samples of one name.
func Sum(samples []Sample, name string) float64 {
	sum := 0.0
	for _, value := range SumBy(samples, name, "") {
		sum += value
	}
	return sum
}

// SumBy adds up the samples of one name for each value of a label.
func SumBy(samples []Sample, name, label string) map[string]float64 {
	sums := map[string]float64{}
	for _, s := range samples {
		if s.Name == name {
			sums[s.Labels[label]] += s.Value
		}
	}
	return sums
}

// QueryPrometheus evaluates an expression now.
func QueryPrometheus(ctx context.Context, prometheusURL, expr string) ([]Sample, error) {
	return queryPrometheus(ctx, prometheusURL, url.Values{"query": {expr}})
}

// QueryPrometheusAt evaluates an expression at a time.
func QueryPrometheusAt(ctx context.Context, prometheusURL, expr string, at time.Time) ([]Sample, error) {
	return queryPrometheus(ctx, prometheusURL, url.Values{"query": {expr}, "time": {at.UTC().Format(time.RFC3339)}})
}

func queryPrometheus(ctx context.Context, prometheusURL string, query url.Values) ([]Sample, error) {
	expr := query.Get("query")
	body, err := Get(ctx, prometheusURL+"/api/v1/query?"+query.Encode())
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			ResultType string
			Result     []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("lab: Prometheus' answer: %w", err)
	}
	if answer.Data.ResultType != "vector" {
		return nil, fmt.Errorf("lab: Prometheus answered %q to %s", answer.Data.ResultType, expr)
	}
	var samples []Sample
	for _, r := range answer.Data.Result {
		text, _ := r.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("lab: Prometheus' answer: %w", err)
		}
		samples = append(samples, Sample{Name: r.Metric["__name__"], Labels: r.Metric, Value: value})
	}
	return samples, nil
}
