// Curves of training runs and of feedback.
export { default as uPlot } from "uplot";
