package files

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Progress is told how far a search is. It consists of steps, of which each counts its own things
// from 0 on, so that a step that ends does not say how long the others take.
type Progress interface {
	// Unit says what Set counts from now on.
	Unit(unit string)
	// Set says how many there are that were looked at, and of how many. A total of 0 is not known.
	Set(done, total int64)
	// Note says in a few words what is done. The words are not safe to print.
	Note(words string)
}

// untold is the progress of a search of which nobody wants to know.
type untold struct{}

func (untold) Unit(string)      {}
func (untold) Set(int64, int64) {}
func (untold) Note(string)      {}

// step begins a step of a search.
func (f *finder) step(unit, format string, args ...any) {
	f.progress.Unit(unit)
	f.progress.Set(0, 0)
	f.progress.Note(fmt.Sprintf(format, args...))
}

// oftenFiles is after how many files a walk says how far it is.
const oftenFiles = 256

// begin begins the step of a walk, and finds out how many files and directories the file system
// has, if it tells. A walk can meet more of them, as a file can have several names.
func (w *walk) begin() {
	w.step("files", "walking through %s", w.mount.Point)
	var st unix.Statfs_t
	if unix.Fstatfs(w.root, &st) == nil && st.Files > st.Ffree {
		w.total = int64(st.Files - st.Ffree)
	}
}

// count counts what a walk has met.
func (w *walk) count() {
	if w.met++; w.met%oftenFiles == 0 {
		total := w.total
		if total > 0 {
			total = max(total, w.met)
		}
		w.progress.Set(w.met, total)
	}
}
