"""Defences of other papers, and the control that drops pairs at random."""
