"""The paper's tables and figures beside this build."""
