package control

// Answered reports whether a status comes from the device's server. Without its answer the figures
// are not known, and 0.
func (s *Status) Answered() bool { return s.ServerPID != 0 && s.State != StateUnreachable }

// HasFigures reports whether it comes from a server that has loaded its metadata. Before that the
// figures are 0 too.
func (s *Status) HasFigures() bool { return s.Answered() && len(s.Metadata.Mirrors) > 0 }
