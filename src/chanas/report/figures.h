#pragma once
// The figures of the report page, one function each: <figure> markup, or "" when the data for it is
// missing. Internal to the module.

#include <string>

#include "chanas/report/report.h"
#include "chanas/report/svg.h"

namespace chanas {

std::string pareto_figure(const ReportData& data, const svg::TimeUnit& unit);
std::string cells_figure(const ReportData& data, const svg::TimeUnit& unit);
std::string latency_check_figure(const ReportData& data, const svg::TimeUnit& unit);
std::string search_figure(const ReportData& data);
std::string loss_figure(const ReportData& data);
std::string training_accuracy_figure(const ReportData& data);
std::string tuning_figure(const ReportData& data);
std::string elements_figure(const ReportData& data, const svg::TimeUnit& unit);
std::string architecture_figure(const ReportData& data);

}  // namespace chanas
