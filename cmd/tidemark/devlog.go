package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// largeLog is the size above which a log file is put aside at start.
const largeLog = 16 << 20

// logFiles are one log file for each part of the dev run.
type logFiles struct {
	dir   string
	mu    sync.Mutex
	files map[string]*os.File
}

func openLogs(dir string) (*logFiles, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the log directory: %w", err)
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return nil, fmt.Errorf("look at the old logs: %w", err)
	}
	for _, path := range old {
		if info, err := os.Stat(path); err == nil && info.Size() > largeLog {
			if err := os.Rename(path, path+".old"); err != nil {
				return nil, fmt.Errorf("put an old log aside: %w", err)
			}
		}
	}
	return &logFiles{dir: dir, files: map[string]*os.File{}}, nil
}

// Path returns the log file of a part.
func (l *logFiles) Path(part string) string { return filepath.Join(l.dir, part+".log") }

// For returns the logger of a part; it appends to the part's file.
func (l *logFiles) For(part string) *slog.Logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	file := l.files[part]
	if file == nil {
		var err error
		file, err = os.OpenFile(l.Path(part), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil { // better on the screen than lost
			slog.Warn("no log file", "part", part, "error", err)
			return slog.Default()
		}
		l.files[part] = file
	}
	return slog.New(slog.NewTextHandler(file, nil))
}

// Close closes the files.
func (l *logFiles) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, file := range l.files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}
