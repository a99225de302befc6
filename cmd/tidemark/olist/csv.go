package olist

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxRow bounds one row; the longest of the dataset has 300 bytes.
const maxRow = 64 << 10

const byteOrderMark = "\ufeff"

// Refusal is a row that was not taken in, and why.
type Refusal struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Reason string `json:"reason"` // a class of reasons, for counting
	Detail string `json:"detail"` // what is wrong with this row
}

// String names the row and what is wrong with it.
func (r Refusal) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", r.File, r.Line, r.Reason, r.Detail)
}

// rowError is why a row is refused.
type rowError struct{ reason, detail string }

func (e *rowError) Error() string { return e.reason + ": " + e.detail }

func refuse(reason, format string, args ...any) error {
	return &rowError{reason: reason, detail: fmt.Sprintf(format, args...)}
}

// row is one row of a file; fields are found by the name of their column.
type row struct {
	line    int
	fields  []string
	columns map[string]int
}

func (r row) get(column string) string { return r.fields[r.columns[column]] }

// eachRow streams the rows of a CSV file whose head names at least the wanted
// columns, in any order. A row that does not parse, or that take refuses, is
// reported and the next one is read: a row is one line, so a stray quote ruins
// no other row. An error means that the file as a whole cannot be used.
func eachRow(path, name string, wanted []string, take func(row) error, refused func(Refusal)) (rows int, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	lines := bufio.NewReaderSize(file, maxRow)
	head, tooLong, err := readLine(lines)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	columns, err := parseHead(head, tooLong, wanted)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	for number := 2; ; number++ {
		text, tooLong, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return rows, fmt.Errorf("read %s: %w", name, err)
		}
		if text == "" && !tooLong {
			continue
		}
		rows++
		if err := takeRow(number, text, tooLong, columns, take); err != nil {
			bad, ok := errors.AsType[*rowError](err)
			if !ok {
				return rows, fmt.Errorf("%s:%d: %w", name, number, err)
			}
			refused(Refusal{File: name, Line: number, Reason: bad.reason, Detail: bad.detail})
		}
	}
}

func takeRow(number int, text string, tooLong bool, columns map[string]int, take func(row) error) error {
	if tooLong {
		return refuse("row too long", "more than %d bytes", maxRow)
	}
	if !utf8.ValidString(text) {
		return refuse("wrong encoding", "not valid UTF-8")
	}
	fields, err := parseLine(text)
	if err != nil {
		return refuse("malformed row", "%v", err)
	}
	if len(fields) != len(columns) {
		return refuse("malformed row", "%d fields, the head has %d", len(fields), len(columns))
	}
	return take(row{line: number, fields: fields, columns: columns})
}

func parseHead(head string, tooLong bool, wanted []string) (map[string]int, error) {
	if tooLong || !utf8.ValidString(head) || strings.ContainsRune(head, 0) {
		return nil, errors.New("the first line is not a CSV head in UTF-8; is the file in another encoding?")
	}
	names, err := parseLine(strings.TrimPrefix(head, byteOrderMark))
	if err != nil {
		return nil, fmt.Errorf("the head does not parse: %w", err)
	}
	columns := make(map[string]int, len(names))
	for i, n := range names {
		if _, twice := columns[n]; twice {
			return nil, fmt.Errorf("the head names column %q twice", n)
		}
		columns[n] = i
	}
	var missing []string
	for _, w := range wanted {
		if _, ok := columns[w]; !ok {
			missing = append(missing, w)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, fmt.Errorf("the head lacks %s", strings.Join(missing, ", "))
	}
	return columns, nil
}

// readLine reads one line without its end. Of a line longer than maxRow it
// keeps nothing, so a hostile file costs no memory.
func readLine(r *bufio.Reader) (text string, tooLong bool, err error) {
	slice, err := r.ReadSlice('\n')
	for errors.Is(err, bufio.ErrBufferFull) {
		tooLong = true
		slice, err = r.ReadSlice('\n')
	}
	if errors.Is(err, io.EOF) && (len(slice) > 0 || tooLong) {
		err = nil
	}
	if tooLong || err != nil {
		return "", tooLong, err
	}
	return strings.TrimRight(string(slice), "\r\n"), false, nil
}

func parseLine(text string) ([]string, error) {
	reader := csv.NewReader(strings.NewReader(text))
	reader.FieldsPerRecord = -1
	fields, err := reader.Read()
	if parse, ok := errors.AsType[*csv.ParseError](err); ok {
		return nil, fmt.Errorf("column %d: %w", parse.Column, parse.Err)
	}
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return fields, err
}
